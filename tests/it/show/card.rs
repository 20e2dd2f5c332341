//! `README.md`.

use std::sync::LazyLock;

use ferrotune::evaluate::TaskScores;
use ferrotune::show::{Card, Summary, model_card};
use ferrotune::train::config::{KEYS, Method, RunConfig, TemplateName};
use ferrotune::train::observer::{End, Start};

const BASE: &str = "HuggingFaceTB/SmolLM2-135M-Instruct";

fn config() -> RunConfig {
    RunConfig {
        data: "datasets/orders/train.jsonl".into(),
        eval_data: Some("datasets/orders/test.jsonl".into()),
        output_dir: "runs/orders".into(),
        ..Default::default()
    }
}

static START: LazyLock<Start> = LazyLock::new(|| Start {
    examples: 1200,
    trainable_parameters: 4_884_480,
    total_parameters: 139_399_488,
    device: "CPU, 2 threads".into(),
    ..Default::default()
});

static END: End = End {
    step: 120,
    total_steps: 120,
    interrupted: false,
    train_seconds: 312.4,
    tokens_per_second: 251.6,
    peak_rss_bytes: 912_000_000,
};

static SUMMARY: Summary = Summary { tokens: 78_600, train_loss: Some(0.04567), eval_loss: Some(0.0512) };

/// The card of a run with `config` after `change`.
fn card<'a>(config: &'a RunConfig, change: impl FnOnce(&mut Card<'a>)) -> String {
    let mut card = Card {
        config,
        base_model: BASE,
        base_license: Some("Apache-2.0"),
        language: &["vi"],
        instruction: Some("Ghi đơn thành JSON."),
        start: &START,
        end: &END,
        summary: &SUMMARY,
        before: None,
        after: None,
    };
    change(&mut card);
    model_card(&card)
}

fn front_matter(card: &str) -> Vec<&str> {
    let front = card.strip_prefix("---\n").and_then(|rest| rest.split_once("\n---\n")).expect("front matter").0;
    front.lines().collect()
}

#[test]
fn front_matter_is_what_the_hub_asks_for() {
    let text = card(&config(), |_| {});
    let expected = [
        "base_model: HuggingFaceTB/SmolLM2-135M-Instruct",
        "library_name: peft",
        "pipeline_tag: text-generation",
        "license: apache-2.0",
        "language:",
        "- vi",
        "tags:",
        "- ferrotune",
        "- sft",
        "- lora",
        "- qlora",
        "- base_model:adapter:HuggingFaceTB/SmolLM2-135M-Instruct",
    ];
    assert_eq!(front_matter(&text), expected);
}

#[test]
fn front_matter_follows_the_run() {
    let mut config = config();
    config.method = Method::Full;
    config.data = "hf:org/some.data:train".into();
    config.eval_data = Some("hf:org/some.data@main:test".into());
    let text = card(&config, |card| {
        card.base_license = Some("My \"odd\" License: v1");
        card.language = &["no", "en"];
    });
    let expected = [
        "base_model: HuggingFaceTB/SmolLM2-135M-Instruct",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "license: other",
        "license_name: \"my-\\\"odd\\\"-license:-v1\"",
        "language:",
        // In YAML 1.1 a plain `no` is a boolean.
        "- \"no\"",
        "- en",
        "datasets:",
        "- org/some.data",
        "tags:",
        "- ferrotune",
        "- sft",
        "- base_model:finetune:HuggingFaceTB/SmolLM2-135M-Instruct",
    ];
    assert_eq!(front_matter(&text), expected);
    assert!(!text.contains("peft") && text.contains("load_file"));
}

#[test]
fn a_base_model_that_is_not_on_the_hub_is_not_in_the_front_matter() {
    let mut config = config();
    for path in ["/home/lan/models/tiny", "models/tiny", "./tiny", "tiny: x\n- y", "a/b/c", "tiny.gguf"] {
        config.model = path.into();
        let text = card(&config, |card| card.base_model = path);
        assert!(!front_matter(&text).iter().any(|line| line.contains("base_model") || line.contains("tiny")), "{path}");
        assert!(text.contains("tiny") || path == "a/b/c", "{path}");
    }
}

#[test]
fn no_private_path_gets_out() {
    let mut config = config();
    config.model = "/home/lan/models/tiny".into();
    config.data = "/home/lan/train.jsonl".into();
    config.eval_data = Some("../lan/test.jsonl".into());
    config.output_dir = "/home/lan/runs/orders".into();
    config.init_adapter = Some("C:\\Users\\lan\\first".into());
    let text = card(&config, |card| card.base_model = "/home/lan/models/tiny");
    assert!(!text.contains("lan/") && !text.contains("lan\\") && !text.contains("home"), "{text}");
    for name in ["# orders\n", "train.jsonl", "test.jsonl", "| init_adapter | first |", "base = \"tiny\""] {
        assert!(text.contains(name), "{name}");
    }
}

#[test]
fn every_setting_stands_in_the_table() {
    let mut config = config();
    config.data = "a|b_c.jsonl".into();
    let text = card(&config, |_| {});
    let rows: Vec<&str> = text.split("## Settings").nth(1).unwrap().lines().filter(|l| l.starts_with("| ")).collect();
    let set = KEYS.iter().filter(|key| key.value(&config).is_some());
    let names: Vec<&str> = rows[2..].iter().map(|row| row[2..].split(" | ").next().unwrap()).collect();
    assert_eq!(names, set.map(|key| key.name).collect::<Vec<_>>());
    for row in [
        "| data | a\\|b_c.jsonl |",
        "| learning_rate | 0.0002 |",
        "| lr_scheduler_type | cosine |",
        "| packing | true |",
        "| max_steps | -1 |",
    ] {
        assert!(rows.contains(&row), "{row} in {rows:#?}");
    }
}

#[test]
fn results_stand_in_their_tables() {
    let text = card(&config(), |card| {
        card.before = Some(TaskScores { n: 100, eval_loss: Some(2.5), ..Default::default() });
        card.after = Some(TaskScores { exact_match: 0.915, valid_json: 1.0, n: 100, eval_loss: None });
    });
    for row in [
        "|  | before training | after training |",
        "| exact match | 0.0% | 91.5% |",
        "| valid JSON | 0.0% | 100.0% |",
        "| loss (nats per token) | 2.5000 | – |",
        "| steps | 120 of 120 |",
        "| tokens | 78,600 |",
        "| trained parameters | 4,884,480 (3.50% of all) |",
        "| training loss at the end (nats per token) | 0.0457 |",
        "| evaluation loss at the end (nats per token) | 0.0512 |",
        "| seconds | 312 |",
        "| tokens per second | 252 |",
        "| peak memory | 0.91 GB |",
        "| device | CPU, 2 threads |",
    ] {
        assert!(text.lines().any(|line| line == row), "{row} in {text}");
    }
    assert!(text.contains("](loss.svg)"));
    assert!(text.contains("scored on 100 examples") && text.contains("synthetic") && text.contains("139 million"));
}

#[test]
fn what_is_not_known_is_not_told() {
    let config = RunConfig { data: "notes.jsonl".into(), ..config() };
    let nothing = (Start { resumed_step: 40, ..Default::default() }, End { interrupted: true, ..Default::default() });
    let summary = Summary { train_loss: Some(f64::NAN), ..Default::default() };
    let text = card(&config, |card| {
        (card.start, card.end, card.summary) = (&nothing.0, &nothing.1, &summary);
        (card.base_license, card.language, card.instruction) = (None, &[], None);
    });
    for absent in ["NaN", "license:", "language:", "datasets:", "synthetic", "million", "device |", "| seconds", "GB"] {
        assert!(!text.contains(absent), "{absent} in {text}");
    }
    assert!(text.contains("stopped before its end") && text.contains("not been evaluated"));
}

#[test]
fn seconds_of_a_resumed_run_are_said_to_be_a_part() {
    let (config, start) = (config(), Start { resumed_step: 40, ..Default::default() });
    let text = card(&config, |card| card.start = &start);
    assert!(text.contains("| seconds, from step 40 on | 312 |"), "{text}");
}

#[test]
fn the_prompt_is_the_template_with_the_instruction() {
    let text = card(&config(), |_| {});
    let prompt = "```text\n### Instruction:\nGhi đơn thành JSON.\n\n### Input:\n{input}\n\n### Response:\n```\n";
    assert!(text.contains(prompt), "{text}");
    let python = "prompt = f\"### Instruction:\\n{instruction}\\n\\n### Input:\\n{text}\\n\\n### Response:\\n\"\n";
    assert!(text.contains(python), "{text}");
    assert!(text.contains("instruction = \"Ghi đơn thành JSON.\"\n"));

    let mut chat = config();
    chat.template = TemplateName::Chat;
    let text = card(&chat, |_| {});
    assert!(text.contains("apply_chat_template") && !text.contains("### Instruction"), "{text}");
}

#[test]
fn an_instruction_cannot_break_out_of_its_block() {
    let text = card(&config(), |card| card.instruction = Some("Say \"hi\"\n```\n# Not a heading {x}"));
    assert!(text.contains("\n````text\nSay \"hi\"\n```\n# Not a heading {x}\n````\n"), "{text}");
    assert!(text.contains("instruction = \"Say \\\"hi\\\"\\n```\\n# Not a heading {x}\"\n"), "{text}");
}
