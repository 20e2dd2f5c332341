//! The text of an example, to the byte.

use ferrotune::data::{ChatTemplate, Message, Record, Template};

use super::record;

#[test]
fn alpaca_is_the_contracts_text() {
    let alpaca = Template::named("alpaca", None).unwrap();
    let whole = |input: &str| {
        let text = alpaca.text(&record("Dịch.", input, "yes\n")).unwrap();
        assert_eq!(text.completion, "yes\n");
        assert_eq!(text.prompt, alpaca.prompt(&record("Dịch.", input, "other")).unwrap());
        text.prompt + &text.completion
    };
    assert_eq!(whole("vâng"), "### Instruction:\nDịch.\n\n### Input:\nvâng\n\n### Response:\nyes\n");
    assert_eq!(whole(""), "### Instruction:\nDịch.\n\n### Response:\nyes\n");
}

#[test]
fn placeholders_in_the_data_stay_as_they_are() {
    let alpaca = Template::named("alpaca", None).unwrap();
    let prompt = alpaca.prompt(&record("{input} {instruction}", "{instruction}", "")).unwrap();
    assert_eq!(prompt, "### Instruction:\n{input} {instruction}\n\n### Input:\n{instruction}\n\n### Response:\n");
}

#[test]
fn an_unknown_name_and_a_missing_chat_template_are_told() {
    let unknown = Template::named("alpacca", None).unwrap_err().to_string();
    assert!(unknown.contains("`alpacca`") && unknown.contains("`alpaca` and `chat`"), "{unknown}");
    let missing = Template::named("chat", None).unwrap_err().to_string();
    assert!(missing.contains("no chat template"), "{missing}");
}

/// SmolLM2-Instruct's own, as its tokenizer has it.
const SMOLLM2: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

fn chat(source: &str) -> ChatTemplate {
    ChatTemplate::new(source, Some("<s>"), Some("</s>")).unwrap()
}

#[test]
fn chat_is_the_models_own_template_parted_where_the_answer_begins() {
    let template = Template::named("chat", Some(chat(SMOLLM2))).unwrap();
    let text = template.text(&record("Dịch.", "vâng", "yes")).unwrap();
    let system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face";
    let prompt = format!(
        "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\nDịch.\n\nvâng<|im_end|>\n<|im_start|>assistant\n"
    );
    assert_eq!(text.prompt, prompt);
    assert_eq!(text.completion, "yes<|im_end|>\n");
}

/// Every answer of a conversation is the model's, and the answers alone.
#[test]
fn a_conversations_answers_are_found_without_marks_in_the_template() {
    let template = Template::named("chat", Some(chat(SMOLLM2))).unwrap();
    let turn = |role: &str, content: &str| Message { role: role.into(), content: content.into() };
    let turns = vec![turn("system", "Be brief."), turn("user", "1+1?"), turn("assistant", "2")];
    let text = template.text(&Record { turns, ..record("And 2+2?", "", "4") }).unwrap();
    assert!(text.prompt.starts_with("<|im_start|>system\nBe brief.<|im_end|>\n"), "{}", text.prompt);
    let answers: Vec<&str> = text.answers.iter().map(|answer| &text.prompt[answer.clone()]).collect();
    assert_eq!(answers, ["2<|im_end|>\n"]);
    assert_eq!(text.completion, "4<|im_end|>\n");
    let plain = Template::named("alpaca", None).unwrap();
    let conversation = Record { turns: vec![turn("user", "a"), turn("assistant", "b")], ..record("c", "", "d") };
    let refused = plain.text(&conversation).unwrap_err().to_string();
    assert!(refused.contains("a conversation") && refused.contains("`chat`"), "{refused}");
}

/// (template, its text for one user message "a b"), each checked against transformers' `render_jinja_template`.
const DIALECT: &[(&str, &str)] = &[
    ("  {% if true %}\nx\n  {% endif %}\ny", "x\ny"),
    ("{{ strftime_now('%d %b %Y') }}, {{ strftime_now('%Y-%m-%d %H:%M') }}", "26 Jul 2024, 2024-07-26 00:00"),
    ("{{ {'a': [1, 'é<'], 'b': none} | tojson }}", "{\"a\": [1, \"é<\"], \"b\": null}"),
    ("{{ [1, {}] | tojson(indent=2) }}", "[\n  1,\n  {}\n]"),
    ("{{ bos_token }}{{ messages[0]['content'] }}{{ eos_token }}", "<s>a b</s>"),
    ("{{ messages[0].content.split(' ')[-1].strip().upper() }}", "B"),
    ("{% if messages[0].content.startswith('a') %}{{ ' x '.lstrip() + '|' + ' x '.rstrip() }}{% endif %}", "x | x"),
    ("{% for key, value in {'k': 'v'}.items() %}{{ key }}={{ value }}{% endfor %}", "k=v"),
    ("{{ {'k': 1}.get('z', 2) }}{{ messages[0].get('role') }}", "2user"),
    ("{% for m in messages %}{%- generation -%} {{ m.content }} {%- endgeneration -%}{% endfor %}", "a b"),
    ("{% for i in range(5) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
    ("{% set ns = namespace(n=0) %}{% for i in range(3) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}", "3"),
    ("{{ missing }}<{{ '&' }}>", "<&>"),
];

#[test]
fn jinja_is_transformers_dialect() {
    let messages = [Message { role: "user".into(), content: "a b".into() }];
    for (source, text) in DIALECT {
        assert_eq!(chat(source).render(&messages, false).unwrap(), *text, "{source}");
    }
}

#[test]
fn a_chat_templates_refusal_is_told_in_its_own_words() {
    let template = Template::named("chat", Some(chat("{{ raise_exception('Only system first!') }}"))).unwrap();
    let message = template.prompt(&record("a", "", "b")).unwrap_err().to_string();
    assert!(message.contains("Only system first!"), "{message}");

    let broken = ChatTemplate::new("x\n{% if %}", None, None).unwrap_err().to_string();
    assert!(broken.contains("line 2"), "{broken}");

    let shifting = "{% for m in messages %}{{ messages|length }}{{ m.content }}{% endfor %}";
    let template = Template::named("chat", Some(chat(shifting))).unwrap();
    let message = template.text(&record("a", "", "b")).unwrap_err().to_string();
    assert!(message.contains("before its answer unchanged"), "{message}");
}
