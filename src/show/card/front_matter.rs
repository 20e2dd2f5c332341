//! The metadata that the Hub reads, refuses when they break its rules, and finds models by.

use super::{Card, is_hub_name};
use crate::show::markdown::yaml;
use crate::train::config::Method;

/// The licences that the Hub knows by name, as far as language models have them
/// (<https://huggingface.co/docs/hub/repositories-licenses>).
#[rustfmt::skip]
const LICENSES: &[&str] = &[
    "afl-3.0", "agpl-3.0", "apache-2.0", "artistic-2.0", "bigcode-openrail-m", "bigscience-bloom-rail-1.0",
    "bigscience-openrail-m", "bsd-2-clause", "bsd-3-clause", "bsl-1.0", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0",
    "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-sa-3.0",
    "cc-by-sa-4.0", "cc0-1.0", "gemma", "gpl-2.0", "gpl-3.0", "isc", "lgpl-2.1", "lgpl-3.0", "llama2", "llama3",
    "llama3.1", "llama3.2", "llama3.3", "llama4", "mit", "mpl-2.0", "openrail", "unknown", "unlicense", "wtfpl",
];

/// The YAML between its two lines of dashes.
pub(super) fn front_matter(card: &Card) -> String {
    let mut lines = vec!["---".to_string()];
    let base = card.hub_model();
    if let Some(name) = base {
        lines.push(format!("base_model: {}", yaml(name)));
    }
    lines.push(format!("library_name: {}", if card.is_adapter() { "peft" } else { "transformers" }));
    lines.push("pipeline_tag: text-generation".into());
    if let Some(license) = card.base_license {
        let license = license.to_lowercase();
        if LICENSES.contains(&license.as_str()) {
            lines.push(format!("license: {}", yaml(&license)));
        } else {
            // The Hub wants it in lower case and without spaces.
            let name: Vec<&str> = license.split_whitespace().collect();
            lines.push("license: other".into());
            lines.push(format!("license_name: {}", yaml(&name.join("-"))));
        }
    }
    let mut list = |key: &str, items: &[String]| {
        if !items.is_empty() {
            lines.push(format!("{key}:"));
            lines.extend(items.iter().map(|item| format!("- {}", yaml(item))));
        }
    };
    list("language", &card.language.iter().map(|code| code.to_string()).collect::<Vec<_>>());
    list("datasets", &datasets(card));
    list("tags", &tags(card, base));
    lines.push("---\n".into());
    lines.join("\n")
}

/// The Hub's names of the data, each once.
fn datasets(card: &Card) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for data in [Some(card.config.data.as_str()), card.config.eval_data.as_deref()].into_iter().flatten() {
        let name = data.strip_prefix("hf:").and_then(|name| name.split([':', '@']).next());
        if let Some(name) = name.filter(|name| is_hub_name(name) && !names.iter().any(|known| known == name)) {
            names.push(name.into());
        }
    }
    names
}

fn tags(card: &Card, base: Option<&str>) -> Vec<String> {
    let mut tags: Vec<String> = vec!["ferrotune".into(), "sft".into()];
    match card.config.method {
        Method::Full => {}
        Method::Lora => tags.push("lora".into()),
        Method::Qlora => tags.extend(["lora".into(), "qlora".into()]),
        Method::PromptTuning => tags.push("prompt-tuning".into()),
    }
    if let Some(base) = base {
        let relation = if card.is_adapter() { "adapter" } else { "finetune" };
        tags.push(format!("base_model:{relation}:{base}"));
    }
    tags
}
