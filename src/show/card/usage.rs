//! How to ask the model: the text that it was trained with, and programs that write it.

use super::{Card, public};
use crate::data::{PLAIN, Plain};
use crate::quant::QuantType;
use crate::show::markdown::fenced;
use crate::train::config::Method;

fn plain(card: &Card) -> Option<&'static Plain> {
    PLAIN.iter().find(|plain| plain.name == card.config.template.name())
}

/// The text that a prompt has to be.
pub(super) fn prompt(card: &Card) -> String {
    let mut text = String::from("## The prompt\n\n");
    match plain(card) {
        Some(plain) => {
            let of = |template: &str| match card.instruction {
                Some(instruction) => template.replace("{instruction}", instruction),
                None => template.into(),
            };
            text += "The model was trained on this text, to the character, and answers on the line after it:\n\n";
            text += &fenced("text", &of(plain.with_input));
            text += "\nWithout input:\n\n";
            text += &fenced("text", &of(plain.without_input));
        }
        None => {
            text += "Prompts have the form of the base model's own chat template: one message of the user, which is the \
                     instruction, a blank line and the input.\n";
        }
    }
    if let Some(instruction) = card.instruction {
        text += "\nThe instruction was always the same:\n\n";
        text += &fenced("text", instruction);
    }
    text
}

/// Commands and a Python program that run the model.
pub(super) fn how_to(card: &Card) -> String {
    let flag = if card.is_adapter() { "--adapter" } else { "--model" };
    let shell = format!(
        "ferrotune chat {flag} .\nferrotune generate {flag} . --prompts prompts.jsonl\n\
         # a line of prompts.jsonl: {{\"instruction\": \"…\", \"input\": \"…\"}}"
    );
    let mut text = String::from("## How to use it\n\nWith Ferrotune, in the folder of these files:\n\n");
    text += &fenced("sh", &shell);
    text += if card.is_adapter() { "\nWith PEFT:\n\n" } else { "\nWith transformers:\n\n" };
    text += &fenced("python", &python(card));
    let quant_type = match card.config.quantization.bnb_4bit_quant_type {
        _ if card.config.method != Method::Qlora => None,
        Some(QuantType::Nf4) => Some("nf4"),
        Some(QuantType::Fp4) => Some("fp4"),
        // bitsandbytes, which the hint is about, has no other.
        _ => None,
    };
    if let Some(name) = quant_type {
        let double = if card.config.quantization.bnb_4bit_use_double_quant { "True" } else { "False" };
        text += &format!(
            "\nThe adapter was trained beside 4-bit weights. On a GPU, \
             `quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=\"{name}\", \
             bnb_4bit_use_double_quant={double})` loads the base model in that form; in 16 bits its answers can differ a \
             little.\n"
        );
    }
    text
}

fn python(card: &Card) -> String {
    let base = literal(card.hub_model().unwrap_or_else(|| public(card.base_model)));
    let mut lines = vec![];
    if card.is_adapter() {
        lines.push("from peft import PeftModel".into());
    } else {
        lines.push("from safetensors.torch import load_file".into());
    }
    lines.push("from transformers import AutoModelForCausalLM, AutoTokenizer\n".into());
    lines.push(format!("base = {base}"));
    lines.push("tokenizer = AutoTokenizer.from_pretrained(base)".into());
    lines.push("model = AutoModelForCausalLM.from_pretrained(base)".into());
    lines.push(if card.is_adapter() {
        "model = PeftModel.from_pretrained(model, \".\")  # the folder of these files, or its name on the Hub\n".into()
    } else {
        "model.load_state_dict(load_file(\"model.safetensors\"), strict=False)  # tied weights stand there once\n"
            .into()
    });
    lines.push(format!("instruction = {}", literal(card.instruction.unwrap_or("…"))));
    lines.push("text = \"…\"".into());
    match plain(card) {
        Some(plain) => {
            // The templates' placeholders are those of Python; `input` is a function there.
            lines.push(format!("prompt = f{}", literal(&plain.with_input.replace("{input}", "{text}"))));
            lines.push("inputs = tokenizer(prompt, return_tensors=\"pt\")".into());
        }
        None => {
            lines.push(r#"messages = [{"role": "user", "content": f"{instruction}\n\n{text}"}]"#.into());
            lines.push("inputs = tokenizer.apply_chat_template(".into());
            lines.push("    messages, add_generation_prompt=True, return_dict=True, return_tensors=\"pt\"\n)".into());
        }
    }
    lines.push("output = model.generate(**inputs, max_new_tokens=256, do_sample=False)".into());
    lines.push(r#"answer = output[0, inputs["input_ids"].shape[1] :]"#.into());
    lines.push("print(tokenizer.decode(answer, skip_special_tokens=True))".into());
    lines.join("\n")
}

/// A string in Python, whose escapes are JSON's.
fn literal(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
