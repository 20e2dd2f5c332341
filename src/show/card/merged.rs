//! The card of a model that an adapter was merged into, made from the adapter's card.

use crate::model::export::{Difference, Verification};
use crate::show::markdown::yaml;

/// Lines of an adapter's card, from here to there, that say how to load an adapter.
const PEFT_ONLY: [&str; 3] =
    ["from peft import", "model = PeftModel.", "The adapter was trained beside 4-bit weights."];

/// The card of the merged model.
///
/// - `adapter_card`: the adapter's `README.md`, as [`model_card`](super::model_card) writes it; other cards keep their
///   text and get the metadata of a whole model
/// - `base`: what the adapter's files call its base, for an adapter without a card
/// - `verification`: what the comparison with base and adapter found, if it was made
pub(crate) fn merged_card(adapter_card: Option<&str>, base: &str, verification: Option<&Verification>) -> String {
    let card = match adapter_card {
        Some(card) => {
            card.lines().filter(|line| !PEFT_ONLY.iter().any(|start| line.starts_with(start))).map(whole).collect()
        }
        None => minimal(base),
    };
    let mut text = card.join("\n").trim_end().to_string() + "\n\n## Merging\n\n";
    text +=
        "The adapter's matrices were added to the base model's weights, in 32 bits, and the sums were rounded once.\n";
    if let Some(found) = verification {
        text += &format!("\n{}\n", sentence("Base with adapter and merged model", &found.merged));
        if let Some(trained) = &found.trained {
            let what = "In training the base was rounded to 4 bits, and the adapter learned beside the rounded weights. \
                        The model of training and the merged one";
            text += &format!("\n{}\n", sentence(what, trained));
        }
    }
    text
}

/// A line of an adapter's card as a whole model's card has it.
fn whole(line: &str) -> String {
    match line {
        "library_name: peft" => return "library_name: transformers".into(),
        "With PEFT:" => return "With transformers:".into(),
        _ => {}
    }
    if line.starts_with("base = ") {
        return "base = \".\"  # the folder of these files, or its name on the Hub".into();
    }
    if let Some(base) = line.strip_prefix("- base_model:adapter:") {
        return format!("- base_model:finetune:{base}");
    }
    let line = match line.strip_prefix("- \"base_model:adapter:") {
        Some(base) => format!("- \"base_model:finetune:{base}"),
        None => line.into(),
    };
    let line = line.replace("ferrotune chat --adapter .", "ferrotune chat --model .");
    let line = line.replace("ferrotune generate --adapter .", "ferrotune generate --model .");
    match ["A QLoRA adapter for ", "A LoRA adapter for "].iter().find_map(|start| line.strip_prefix(start)) {
        Some(rest) => format!("A LoRA adapter merged into {rest}"),
        None => line,
    }
}

fn minimal(base: &str) -> Vec<String> {
    let mut lines = vec!["---".to_string()];
    if super::is_hub_name(base) {
        lines.push(format!("base_model: {}", yaml(base)));
    }
    lines.extend(["library_name: transformers", "pipeline_tag: text-generation", "---", ""].map(String::from));
    lines.push("# A merged model".into());
    lines
}

fn sentence(what: &str, d: &Difference) -> String {
    let Difference { greatest, largest_logit, tokens, same_next } = d;
    format!(
        "{what}, on three short texts: logits differ by at most {greatest:.2e} (the largest is {largest_logit:.1}), and \
         after {same_next} of {tokens} tokens both find the same next token the likeliest."
    )
}
