//! The model card: a run's README.md in the form that the Hub reads.

use std::fmt::Write;

use super::table::{Align, Table};
use crate::evaluate::TaskScores;
use crate::train::config::{KEYS, Method, RunConfig};

/// Scores of the model before and after training, on the same held-out examples.
#[derive(Clone, Copy, Debug)]
pub struct Scores {
    pub before: TaskScores,
    pub after: TaskScores,
}

/// What a card tells.
#[derive(Clone, Debug)]
pub struct Card<'a> {
    pub config: &'a RunConfig,
    /// The base model's name on the Hub, or its path.
    pub base_model: &'a str,
    /// The base model's licence by its SPDX name, where it is known.
    pub license: Option<&'a str>,
    /// The text around a prompt: the template with `{instruction}` and `{input}`, where it is a plain one.
    pub prompt: Option<&'a str>,
    /// The one instruction of all records, where they share one.
    pub instruction: Option<&'a str>,
    pub examples: usize,
    pub steps: usize,
    /// Tokens seen, of this process.
    pub tokens_per_second: f64,
    pub train_seconds: f64,
    pub peak_rss_bytes: u64,
    pub device: &'a str,
    /// Of the last step, in nats.
    pub final_loss: Option<f64>,
    /// Of the last evaluation, in nats.
    pub eval_loss: Option<f64>,
    pub scores: Option<Scores>,
}

/// The card as Markdown with YAML front matter.
pub fn model_card(card: &Card) -> String {
    let mut text = front_matter(card);
    let title = card.config.output_dir.file_name().map_or("A fine-tuned model".into(), |name| name.to_string_lossy());
    let what = match card.config.method {
        Method::Full => "All weights of",
        Method::Lora => "A LoRA adapter for",
        Method::Qlora => "A QLoRA adapter (trained beside NF4 weights) for",
    };
    let _ = write!(
        text,
        "\n# {title}\n\n{what} `{}`, fine-tuned on {} examples of `{}` with Ferrotune {}.\n",
        card.base_model,
        card.examples,
        card.config.data,
        env!("CARGO_PKG_VERSION")
    );
    results(&mut text, card);
    usage(&mut text, card);
    settings(&mut text, card);
    text.push_str(
        "\n## Limits\n\nWhat was scored is told above, and nothing else was. The data that it was trained on bounds what it \
         knows: on other tasks, other languages and other prompts it may be worse than the base model. Check its answers \
         before anything depends on them.\n",
    );
    text
}

fn front_matter(card: &Card) -> String {
    let mut text = String::from("---\n");
    let on_hub = card.base_model.split('/').count() == 2 && !card.base_model.starts_with(['/', '.']);
    if on_hub {
        let _ = writeln!(text, "base_model: {}", yaml(card.base_model));
    }
    let adapter = card.config.method != Method::Full;
    let _ = writeln!(text, "library_name: {}", if adapter { "peft" } else { "transformers" });
    text.push_str("pipeline_tag: text-generation\n");
    if let Some(license) = card.license {
        let _ = writeln!(text, "license: {}", yaml(&license.to_lowercase()));
    }
    if let Some(name) = card.config.data.strip_prefix("hf:") {
        let _ = writeln!(text, "datasets:\n- {}", yaml(name.split([':', '@']).next().unwrap_or(name)));
    }
    text.push_str("tags:\n- ferrotune\n- sft\n");
    text.push_str(match card.config.method {
        Method::Full => "",
        Method::Lora => "- lora\n",
        Method::Qlora => "- lora\n- qlora\n",
    });
    if on_hub && adapter {
        let _ = writeln!(text, "- {}", yaml(&format!("base_model:adapter:{}", card.base_model)));
    }
    text.push_str("---\n");
    text
}

fn results(text: &mut String, card: &Card) {
    text.push_str("\n## Results\n\n![Loss over steps](loss.svg)\n\n");
    if let Some(scores) = card.scores {
        let mut table = Table::new(&[
            ("", Align::Left),
            ("exact match", Align::Right),
            ("valid JSON", Align::Right),
            ("examples", Align::Right),
        ]);
        for (name, s) in [("before", scores.before), ("after", scores.after)] {
            let rate = |rate: f64| format!("{:.1}%", 100.0 * rate);
            table.row([name.into(), rate(s.exact_match), rate(s.valid_json), s.n.to_string()]);
        }
        let _ = writeln!(text, "Greedy answers to held-out prompts:\n\n{}", table.markdown());
    }
    let mut table = Table::new(&[("", Align::Left), ("", Align::Right)]);
    let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
    row("optimizer steps", card.steps.to_string());
    if let Some(loss) = card.final_loss {
        row("training loss of the last step (nats per token)", format!("{loss:.4}"));
    }
    if let Some(loss) = card.eval_loss {
        row("held-out loss (nats per token)", format!("{loss:.4}"));
    }
    row("training time (seconds)", format!("{:.0}", card.train_seconds));
    row("tokens per second", format!("{:.0}", card.tokens_per_second));
    row("peak memory (MB)", format!("{:.0}", card.peak_rss_bytes as f64 / 1e6));
    row("device", card.device.into());
    text.push_str(&table.markdown());
}

fn usage(text: &mut String, card: &Card) {
    let folder = card.config.output_dir.display();
    let adapter = card.config.method != Method::Full;
    let flag = if adapter { "--adapter" } else { "--model" };
    let _ = write!(text, "\n## How to use it\n\n```sh\nferrotune chat {flag} {folder}\n```\n\n```python\n");
    if adapter {
        let _ = write!(
            text,
            "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n\
             tokenizer = AutoTokenizer.from_pretrained({base:?})\n\
             model = AutoModelForCausalLM.from_pretrained({base:?})\n\
             model = PeftModel.from_pretrained(model, {folder:?})\n```\n",
            base = card.base_model,
            folder = folder.to_string(),
        );
    } else {
        let _ = write!(
            text,
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n\
             tokenizer = AutoTokenizer.from_pretrained({folder:?})\n\
             model = AutoModelForCausalLM.from_pretrained({folder:?})\n```\n",
            folder = folder.to_string(),
        );
    }
    match card.prompt {
        Some(prompt) => {
            let prompt = prompt.replace("{instruction}", card.instruction.unwrap_or("{instruction}"));
            let _ = write!(text, "\nA prompt is this text, up to where the answer starts:\n\n```text\n{prompt}\n```\n");
        }
        None => text.push_str("\nPrompts have the form of the model's own chat template.\n"),
    }
}

fn settings(text: &mut String, card: &Card) {
    let mut table = Table::new(&[("key", Align::Left), ("value", Align::Left)]);
    for key in KEYS {
        if let Some(value) = key.value(card.config) {
            table.row([format!("`{}`", key.name), format!("`{value}`")]);
        }
    }
    let _ = write!(text, "\n## Settings\n\n`config.toml` holds them too.\n\n{}", table.markdown());
}

/// A YAML scalar, in quotes where it would not read as plain text.
fn yaml(value: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '/' | '-' | '_' | '.');
    let text = value.chars().all(plain) && value.starts_with(|c: char| c.is_alphabetic());
    if text { value.into() } else { format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(config: &RunConfig) -> Card<'_> {
        Card {
            config,
            base_model: "HuggingFaceTB/SmolLM2-135M-Instruct",
            license: Some("Apache-2.0"),
            prompt: Some("### Instruction:\n{instruction}\n\n### Response:\n"),
            instruction: Some("Ghi đơn."),
            examples: 1200,
            steps: 120,
            tokens_per_second: 250.0,
            train_seconds: 300.0,
            peak_rss_bytes: 900_000_000,
            device: "CPU, 2 threads",
            final_loss: Some(0.02),
            eval_loss: None,
            scores: None,
        }
    }

    #[test]
    fn front_matter_names_the_base_and_the_library() {
        let config = RunConfig { data: "train.jsonl".into(), output_dir: "runs/orders".into(), ..Default::default() };
        let text = model_card(&card(&config));
        let front = text.strip_prefix("---\n").and_then(|rest| rest.split_once("---\n")).unwrap().0;
        assert_eq!(
            front,
            "base_model: HuggingFaceTB/SmolLM2-135M-Instruct\nlibrary_name: peft\npipeline_tag: text-generation\n\
             license: apache-2.0\ntags:\n- ferrotune\n- sft\n- lora\n- qlora\n\
             - \"base_model:adapter:HuggingFaceTB/SmolLM2-135M-Instruct\"\n"
        );
        assert!(text.contains("# orders\n") && text.contains("### Instruction:\nGhi đơn.\n"));
    }

    #[test]
    fn every_setting_and_score_is_told() {
        let config = RunConfig { data: "a|b.jsonl".into(), output_dir: "runs/orders".into(), ..Default::default() };
        let before = TaskScores { n: 100, ..Default::default() };
        let after = TaskScores { exact_match: 0.915, valid_json: 1.0, n: 100, eval_loss: None };
        let text = model_card(&Card { scores: Some(Scores { before, after }), ..card(&config) });
        assert!(text.contains("| after | 91.5% | 100.0% | 100 |"), "{text}");
        assert!(text.contains("a\\|b.jsonl"), "a pipe must not end a cell");
        for key in KEYS.iter().filter(|key| key.value(&config).is_some()) {
            assert!(text.contains(&format!("| `{}` |", key.name)), "{}", key.name);
        }
    }

    #[test]
    fn a_local_base_is_no_name_on_the_hub() {
        let config = RunConfig { data: "d".into(), output_dir: "r".into(), ..Default::default() };
        for path in ["./models/a", "/models/a", "models/a/b", "model"] {
            assert!(!model_card(&Card { base_model: path, ..card(&config) }).contains("base_model:"), "{path}");
        }
    }
}
