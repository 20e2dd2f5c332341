//! Loss masks: what is trained, and that nothing else is.

use ferrotune::data::{ChatTemplate, Example, Record, Template, TokenizeOptions, Tokenized, pack, preview, tokenize};
use proptest::prelude::*;
use tokenizers::Tokenizer;

use super::{BOS, EOS, adds_tokens, record, tokenizer};

const OPTIONS: TokenizeOptions =
    TokenizeOptions { max_length: 1_000, completion_only_loss: true, eos_token_id: EOS, bos: Some(BOS) };

fn alpaca(records: &[Record], tokenizer: &Tokenizer, options: &TokenizeOptions) -> ferrotune::Result<Tokenized> {
    tokenize(records, &Template::named("alpaca", None).unwrap(), tokenizer, options)
}

/// The text of the trained tokens.
fn trained(example: &Example, tokenizer: &Tokenizer) -> String {
    let ids: Vec<u32> = example.ids.iter().zip(&example.trained).filter(|(_, t)| **t).map(|(id, _)| *id).collect();
    tokenizer.decode(&ids, false).unwrap()
}

#[test]
fn the_output_and_the_end_of_sequence_are_trained() {
    let tokenizer = tokenizer(&[], None);
    let records = [record("a", "b", "đá"), record("a", "", "")];
    let made = alpaca(&records, &tokenizer, &OPTIONS).unwrap();
    assert_eq!(trained(&made.examples[0], &tokenizer), "đá</s>");
    assert_eq!(trained(&made.examples[1], &tokenizer), "</s>");
    assert_eq!(made.report.trained_tokens, 6);
    made.check(258, EOS).unwrap();

    let all = TokenizeOptions { completion_only_loss: false, ..OPTIONS };
    let made = alpaca(&records, &tokenizer, &all).unwrap();
    for example in &made.examples {
        assert!(!example.trained[0] && example.trained[1..].iter().all(|t| *t));
    }
}

#[test]
fn a_token_across_the_border_is_trained_even_if_its_blanks_are_trimmed() {
    // "\n{" holds the prompt's last and the completion's first byte.
    let straddling = tokenizer(&[("Ċ", "{")], None);
    let made = alpaca(&[record("a", "", "{}")], &straddling, &OPTIONS).unwrap();
    assert_eq!(trained(&made.examples[0], &straddling), "\n{}</s>");
    // ":\n " has its blanks trimmed away in the tokenizer's own spans, which would put it into the prompt.
    let blanks = tokenizer(&[(":", "Ċ"), (":Ċ", "Ġ")], None);
    let made = alpaca(&[record("a", "", " x")], &blanks, &OPTIONS).unwrap();
    assert_eq!(trained(&made.examples[0], &blanks), ":\n x</s>");
}

#[test]
fn tokens_that_the_tokenizer_adds_are_kept_and_the_end_is_not_doubled() {
    for eos in [false, true] {
        let tokenizer = tokenizer(&[], adds_tokens(eos));
        let made = alpaca(&[record("a", "", "x"), record("a", "", "")], &tokenizer, &OPTIONS).unwrap();
        for (example, output) in made.examples.iter().zip(["x</s>", "</s>"]) {
            assert_eq!(example.ids[0], BOS);
            assert_eq!(example.ids.iter().filter(|id| **id == EOS).count(), 1);
            assert_eq!(trained(example, &tokenizer), output);
        }
    }
}

#[test]
fn special_tokens_in_the_data_are_encoded_as_such() {
    let tokenizer = tokenizer(&[], None);
    let made = alpaca(&[record("a", "", "x</s>"), record("a", "", "</s>y")], &tokenizer, &OPTIONS).unwrap();
    let ends = |i: usize| made.examples[i].ids.iter().filter(|id| **id == EOS).count();
    assert_eq!((ends(0), ends(1)), (1, 2));
}

#[test]
fn a_chat_template_ends_its_text_itself() {
    let tokenizer = tokenizer(&[], adds_tokens(false));
    let source = "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}\n{% endfor %}";
    let chat = ChatTemplate::new(source, Some("<s>"), Some("</s>")).unwrap();
    let template = Template::named("chat", Some(chat)).unwrap();
    let made = tokenize(&[record("a", "", "b")], &template, &tokenizer, &OPTIONS).unwrap();
    assert_eq!(tokenizer.decode(&made.examples[0].ids, false).unwrap(), "<s>a</s>\nb</s>\n");
    assert_eq!(trained(&made.examples[0], &tokenizer), "b</s>\n");

    let doubled = tokenize(&[record("a", "", "b"), record("<s>a", "", "b")], &template, &tokenizer, &OPTIONS);
    let message = doubled.unwrap_err().to_string();
    assert!(message.contains("two beginning-of-sequence tokens") && message.contains("example 2"), "{message}");
}

#[test]
fn cut_and_dropped_examples_are_reported() {
    let tokenizer = tokenizer(&[], None);
    let prompt = "### Instruction:\na\n\n### Response:\n".len();
    let long = record(&"a".repeat(20), "", "x");
    let records = [record("a", "", "x"), record("a", "", "xyz"), long.clone()];
    let options = TokenizeOptions { max_length: prompt + 2, ..OPTIONS };
    let made = alpaca(&records, &tokenizer, &options).unwrap();
    let report = &made.report;
    assert_eq!((report.records, report.examples, report.truncated, report.dropped), (3, 2, 2, 1));
    assert_eq!((report.cut_tokens, report.tokens, report.trained_tokens), (2 + 19, 2 * (prompt + 2), 4));
    assert_eq!(report.longest, prompt + 2);
    made.check(258, EOS).unwrap();

    let message = alpaca(&[long], &tokenizer, &options).unwrap_err().to_string();
    assert!(message.contains("none of the 1 examples") && message.contains("`max_length`"), "{message}");
}

#[test]
fn a_foreign_tokenizer_and_an_end_that_is_never_trained_are_told() {
    let tokenizer = tokenizer(&[], None);
    let made = alpaca(&[record("a", "", "xyz")], &tokenizer, &OPTIONS).unwrap();
    let message = made.check(100, EOS).unwrap_err().to_string();
    assert!(message.contains("outside the model's vocabulary of 100"), "{message}");

    let options = TokenizeOptions { max_length: made.report.longest - 1, ..OPTIONS };
    let message = alpaca(&[record("a", "", "xyz")], &tokenizer, &options).unwrap().check(258, EOS).unwrap_err();
    assert!(message.to_string().contains("end-of-sequence"), "{message}");

    let message = alpaca(&[record("a", "", "x")], &tokenizer, &TokenizeOptions { eos_token_id: 999, ..OPTIONS });
    assert!(message.unwrap_err().to_string().contains("no token 999"));
}

#[test]
fn a_preview_is_the_text_and_never_cuts_a_character() {
    // "Ċ" + the first byte of "đ" (0xC4): the mask changes in the middle of that character.
    let tokenizer = tokenizer(&[("Ċ", "Ä")], None);
    let made = alpaca(&[record("à", "ế", "đá")], &tokenizer, &OPTIONS).unwrap();
    let spans = preview(&made.examples[0], &tokenizer).unwrap();
    let parts: Vec<_> = spans.iter().map(|s| (s.text.as_str(), s.trained)).collect();
    let prompt = "### Instruction:\nà\n\n### Input:\nế\n\n### Response:";
    assert_eq!(parts, [(prompt, false), ("\nđá</s>", true)]);

    let mut example = made.examples[0].clone();
    let middle = example.ids.len() - 2;
    example.trained = (0..example.ids.len()).map(|i| i >= middle).collect();
    let spans = preview(&example, &tokenizer).unwrap();
    assert_eq!(spans.last().map(|s| s.text.as_str()), Some("á</s>"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Each token is trained exactly if it ends in the completion, counted in bytes without the tokenizer's spans; the ids
    /// are those of the whole text; packing keeps every trained token.
    #[test]
    fn masks_follow_the_text(texts in prop::collection::vec(("[ -~]{0,9}", "[ à-ỹ\n]{0,9}", "\\PC{0,9}"), 1..6)) {
        let merges = [("Ċ", "Ċ"), (":", "Ċ"), (":Ċ", "Ġ"), ("Ġ", "Ġ"), ("Ċ", "á"), ("e", "Ċ"), ("á", "»")];
        let tokenizer = tokenizer(&merges, None);
        let records: Vec<_> = texts.iter().map(|(a, b, c)| record(a, b, c)).collect();
        let made = alpaca(&records, &tokenizer, &OPTIONS).unwrap();
        let template = Template::named("alpaca", None).unwrap();
        for (record, example) in records.iter().zip(&made.examples) {
            let text = template.text(record).unwrap();
            let boundary = text.prompt.len();
            prop_assert_eq!(tokenizer.decode(&example.ids, false).unwrap(), text.prompt + &text.completion + "</s>");
            let mut end = 0;
            for (i, id) in example.ids.iter().enumerate().take(example.ids.len() - 1) {
                end += tokenizer.id_to_token(*id).unwrap().chars().count();
                prop_assert_eq!(example.trained[i], end > boundary);
            }
            prop_assert_eq!(example.trained.last(), Some(&true));
        }
        let lengths: Vec<_> = made.examples.iter().map(|e| e.ids.len()).collect();
        let rows = pack(&lengths, OPTIONS.max_length);
        let packed = rows.iter().flatten().flat_map(|i| &made.examples[*i].trained).filter(|t| **t).count();
        prop_assert_eq!(packed, made.report.trained_tokens);
    }
}
