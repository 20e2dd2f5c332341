//! The model card: a run's `README.md` as the Hugging Face Hub takes it.

mod front_matter;
mod merged;
mod usage;

use std::path::Path;

use super::markdown::escape;
use super::metrics::Summary;
use super::table::Table;
use crate::evaluate::TaskScores;
use crate::train::config::{KEYS, Method, RunConfig};
use crate::train::observer::{End, Start};

pub(super) use merged::merged_card;

/// What a card tells.
#[derive(Clone, Copy, Debug)]
pub struct Card<'a> {
    pub config: &'a RunConfig,
    /// What the adapter's files call the base model: its name on the Hub (`org/name`) where it has one.
    pub base_model: &'a str,
    /// The base model's licence by its SPDX name or the Hub's, where it is known. The card passes it on.
    pub base_license: Option<&'a str>,
    /// The data's languages by their ISO 639 codes.
    pub language: &'a [&'a str],
    /// The one instruction of all records, where they share one.
    pub instruction: Option<&'a str>,
    pub start: &'a Start,
    pub end: &'a End,
    /// The metrics of the whole run, from [`summarize`](super::summarize).
    pub summary: &'a Summary,
    /// Scores of the base model, and of the trained one on the same examples.
    pub before: Option<TaskScores>,
    pub after: Option<TaskScores>,
}

/// The card as Markdown with the Hub's YAML before it. It shows `loss.svg`, which has to lie beside it.
///
/// Local paths above the run are left out: a card is made to be published.
pub fn model_card(card: &Card) -> String {
    let sections = [
        front_matter::front_matter(card),
        what(card),
        evaluation(card),
        training(card),
        usage::prompt(card),
        usage::how_to(card),
        limits(card),
        settings(card),
    ];
    sections.join("\n")
}

impl Card<'_> {
    /// The base model's name on the Hub. Metadata with any other name are refused there.
    fn hub_model(&self) -> Option<&str> {
        // A folder can be called `models/tiny`; then the config names the same folder.
        let is_path = self.base_model == self.config.model;
        (!is_path && is_hub_name(self.base_model)).then_some(self.base_model)
    }

    fn base(&self) -> String {
        match self.hub_model() {
            Some(name) => format!("[{}](https://huggingface.co/{name})", escape(name)),
            None => escape(public(self.base_model)),
        }
    }

    fn is_adapter(&self) -> bool {
        self.config.method != Method::Full
    }

    /// Whether the data are the ones that `data::orders` makes up.
    fn has_orders(&self) -> bool {
        Path::new(&self.config.data).ancestors().any(|path| path.ends_with("datasets/orders"))
    }
}

/// Whether `name` is `org/name` as the Hub allows it.
fn is_hub_name(name: &str) -> bool {
    let part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
            && !part.contains("..")
            && !part.contains("--")
            && !part.ends_with(['.', '-'])
    };
    name.len() <= 96 && name.split_once('/').is_some_and(|(org, name)| part(org) && part(name))
}

/// A name or path without the folders of somebody's machine.
fn public(name: &str) -> &str {
    let path = Path::new(name);
    let is_private = path.has_root() || name.starts_with(['~', '.']) || name.contains('\\');
    if is_private { name.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next().unwrap_or(name) } else { name }
}

fn what(card: &Card) -> String {
    let folder = card.config.output_dir.to_string_lossy();
    let title = match public(&folder).rsplit('/').next() {
        Some(name) if !name.is_empty() => name,
        _ => "A fine-tuned model",
    };
    let what = match card.config.method {
        Method::Full => "All weights of",
        Method::Lora => "A LoRA adapter for",
        Method::Qlora => "A QLoRA adapter for",
        Method::PromptTuning => "A tuned prompt for",
    };
    let examples = match card.start.examples {
        0 => String::new(),
        n => format!("{} examples of ", count(n as u64)),
    };
    let (base, data, version) = (card.base(), escape(public(&card.config.data)), env!("CARGO_PKG_VERSION"));
    format!("# {}\n\n{what} {base}, fine-tuned on {examples}{data} with Ferrotune {version}.\n", escape(title))
}

fn evaluation(card: &Card) -> String {
    let columns = [("before training", card.before), ("after training", card.after)];
    let columns: Vec<_> = columns.into_iter().filter_map(|(name, scores)| Some((name, scores?))).collect();
    if columns.is_empty() {
        return "## Evaluation\n\nNo answers were scored.\n".into();
    }
    let mut table = Table::new([""].into_iter().chain(columns.iter().map(|column| column.0))).right(1).right(2);
    let mut row = |name: &str, cell: fn(&TaskScores) -> Option<String>| {
        let cells: Vec<_> = columns.iter().map(|(_, scores)| cell(scores)).collect();
        if cells.iter().any(Option::is_some) {
            let cells = cells.into_iter().map(|cell| cell.unwrap_or_else(|| "–".into()));
            table.row(std::iter::once(name.to_string()).chain(cells));
        }
    };
    row("exact match", |s| percent(s.exact_match));
    row("valid JSON", |s| percent(s.valid_json));
    row("loss (nats per token)", |s| s.eval_loss.and_then(loss));
    row("examples", |s| Some(count(s.n as u64)));
    let data = card.config.eval_data.as_deref().map_or(String::new(), |d| format!(" of {}", escape(public(d))));
    format!(
        "## Evaluation\n\nAnswers to held-out examples{data}, compared with the expected text.\n\n{}",
        table.to_markdown()
    )
}

fn training(card: &Card) -> String {
    let (start, end, summary) = (card.start, card.end, card.summary);
    let resumed = match start.resumed_step {
        0 => String::new(),
        step => format!(", from step {step} on"),
    };
    let known = |number: f64, text: String| (number.is_finite() && number > 0.0).then_some(text);
    let trained = start.trainable_parameters as f64;
    let share = 100.0 * trained / start.total_parameters.max(1) as f64;
    let trainable = format!("{} ({share:.2}% of all)", count(start.trainable_parameters as u64));
    let rows = [
        ("steps".into(), Some(format!("{} of {}", count(end.step as u64), count(end.total_steps as u64)))),
        ("tokens".into(), known(summary.tokens as f64, count(summary.tokens))),
        ("trained parameters".into(), known(trained, trainable)),
        ("training loss at the end (nats per token)".into(), summary.train_loss.and_then(loss)),
        ("evaluation loss at the end (nats per token)".into(), summary.eval_loss.and_then(loss)),
        (format!("seconds{resumed}"), known(end.train_seconds, format!("{:.0}", end.train_seconds))),
        (format!("tokens per second{resumed}"), known(end.tokens_per_second, format!("{:.0}", end.tokens_per_second))),
        ("peak memory".into(), known(end.peak_rss_bytes as f64, format!("{:.2} GB", end.peak_rss_bytes as f64 / 1e9))),
        ("device".into(), (!start.device.is_empty()).then(|| start.device.clone())),
    ];
    let mut table = Table::new(["", "value"]).right(1);
    for (name, value) in rows {
        if let Some(value) = value {
            table.row([name, value]);
        }
    }
    let stopped = match end.interrupted {
        true => "The run was stopped before its end.\n\n",
        false => "",
    };
    format!("## Training\n\n{stopped}{}\n![Loss and learning rate by step](loss.svg)\n", table.to_markdown())
}

fn settings(card: &Card) -> String {
    let mut table = Table::new(["key", "value"]);
    for key in KEYS {
        let value = match key.value(card.config) {
            Some(toml::Value::String(text)) => public(&text).to_string(),
            Some(value) => value.to_string(),
            None => continue,
        };
        table.row([key.name.to_string(), value]);
    }
    let help = "What the keys mean: `ferrotune train --help`.";
    format!("## Settings\n\n{help}\n\n{}", table.to_markdown())
}

fn limits(card: &Card) -> String {
    let mut text = String::from("## Limits\n");
    let mut say = |line: &str| {
        text += "\n- ";
        text += line;
    };
    match card.after {
        Some(scores) => say(&format!(
            "It was scored on {} examples of one task. Nothing else was evaluated: no other task, no other language, \
             no bias, no safety.",
            count(scores.n as u64)
        )),
        None => say("It has not been evaluated for any use."),
    }
    if (1..1_000_000_000).contains(&card.start.total_parameters) {
        let millions = card.start.total_parameters as f64 / 1e6;
        say(&format!("The model is small ({millions:.0} million parameters): it knows little and is easily confused."));
    }
    if card.has_orders() {
        say("Its data are synthetic, made by a generator from one menu and a list of phrases. Real orders differ.");
    }
    say("Other prompts than the one above, and other input than in its data, can be answered worse than scored.");
    say("What the base model gets wrong, and what its licence asks for, holds here too.");
    text + "\n"
}

fn percent(rate: f64) -> Option<String> {
    rate.is_finite().then(|| format!("{:.1}%", 100.0 * rate))
}

fn loss(nats: f64) -> Option<String> {
    nats.is_finite().then(|| format!("{nats:.4}"))
}

/// `134,515,008`.
fn count(n: u64) -> String {
    let digits = n.to_string();
    let groups = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy);
    groups.collect::<Vec<_>>().join(",")
}
