//! The tokenizer and what belongs to it.

use serde_json::{Value, json};

use super::spoil::{edit_json, nothing, remove, set, truncate, write};
use super::{EVAL, GENERATE, LOGITS, PREVIEW, Row, TRAIN, row};

const TOKENIZER: &str = "model/tokenizer.json";
const CHAT: &[&str] = &["preview", "--model", "model", "--data", "data.jsonl", "--template", "chat"];

pub(super) fn rows() -> Vec<Row> {
    vec![
        row("no tokenizer, to train", |d| remove(d, TOKENIZER), TRAIN, &["`model/tokenizer.json`", "into the folder"]),
        row("no tokenizer, to score", |d| remove(d, TOKENIZER), EVAL, &["`model/tokenizer.json`", "into the folder"]),
        row(
            "no tokenizer, to generate",
            |d| remove(d, TOKENIZER),
            GENERATE,
            &["`model/tokenizer.json`", "into the folder"],
        )
        .with(&["--prompt", "tea"]),
        row(
            "a tokenizer that is no JSON",
            |d| truncate(d, TOKENIZER, 50),
            LOGITS,
            &["`model/tokenizer.json`, line 1", "not valid JSON", "from the model again"],
        ),
        row(
            "JSON that is no tokenizer",
            |d| write(d, TOKENIZER, "{\"version\": \"1.0\"}"),
            PREVIEW,
            &[TOKENIZER, "not a tokenizer", "from the model again"],
        ),
        row(
            "a merge of no tokens",
            |d| edit_json(d, TOKENIZER, |t| t["model"]["merges"] = json!(["t Q!"])),
            PREVIEW,
            &[TOKENIZER, "`t`", "`Q!`"],
        ),
        row(
            "a tokenizer of a larger model",
            |d| edit_json(d, TOKENIZER, |t| t["model"]["vocab"]["Z!"] = json!(131)),
            TRAIN,
            &[
                "`model/tokenizer.json`, token `Z!`",
                "131 is outside of the model's vocabulary of 131",
                "wrong tokenizer",
            ],
        ),
        row(
            "an empty vocabulary",
            |d| {
                edit_json(d, TOKENIZER, |t| {
                    t["model"]["vocab"] = json!({});
                    t["added_tokens"] = json!([]);
                    t["model"]["unk_token"] = Value::Null;
                })
            },
            PREVIEW,
            &[TOKENIZER, "vocabulary is empty"],
        ),
        row(
            "no end of sequence",
            |d| {
                remove(d, "model/tokenizer_config.json");
                set(d, "model/config.json", "eos_token_id", Value::Null);
            },
            TRAIN,
            &["`model` names no end-of-sequence token", "Set `eos_token_id`"],
        ),
        row(
            "a tokenizer config that is no JSON",
            |d| write(d, "model/tokenizer_config.json", "{\n\n"),
            PREVIEW,
            &["`model/tokenizer_config.json`, line ", "not valid JSON"],
        ),
        row("no chat template", nothing, CHAT, &["no chat template", "`model`", "such as `alpaca`"]),
        row(
            "a broken chat template",
            |d| write(d, "model/chat_template.jinja", "{% for m in messages %}\n{{ m.content \n"),
            CHAT,
            &["chat template", "`model`, line 2 of the template", "such as `alpaca`"],
        ),
        row(
            "a chat template that refuses",
            |d| write(d, "model/chat_template.jinja", "{{ raise_exception('only even turns') }}"),
            CHAT,
            &["only even turns", "`data.jsonl`, example 1", "such as `alpaca`"],
        ),
    ]
}
