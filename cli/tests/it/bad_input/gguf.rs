//! GGUF files.

use std::path::Path;

use ferrotune::candle_core::quantized::gguf_file::Value;

use super::spoil::{replace, truncate, write};
use super::workspace::{metadata, write_gguf};
use super::{LOGITS_GGUF, Row, row};

const FILE: &str = "tiny.gguf";
const DAMAGED: &str = "copy or fetch it again";
const OTHER: &str = "Use another file, or convert the model again";

/// Writes the file anew with a key of another value, or without it.
fn with_key(dir: &Path, key: &'static str, value: Option<Value>) {
    let mut metadata = metadata();
    metadata.retain(|(k, _)| *k != key);
    metadata.extend(value.map(|value| (key, value)));
    write_gguf(&dir.join(FILE), &metadata);
}

fn text(text: &str) -> Option<Value> {
    Some(Value::String(text.into()))
}

fn texts(texts: &[&str]) -> Value {
    Value::Array(texts.iter().map(|text| Value::String(text.to_string())).collect())
}

pub(super) fn rows() -> Vec<Row> {
    vec![
        row("another magic", |d| replace(d, FILE, b"GGUF", b"GGML"), LOGITS_GGUF, &[FILE, "this is not a GGUF file"]),
        row(
            "an old version",
            |d| replace(d, FILE, b"GGUF\x02", b"GGUF\x01"),
            LOGITS_GGUF,
            &[FILE, "GGUF version 1 is not supported, only 2 and 3"],
        ),
        row("an empty GGUF file", |d| write(d, FILE, ""), LOGITS_GGUF, &[FILE, "ends early, at 0 bytes", DAMAGED]),
        row("a GGUF file cut in its header", |d| truncate(d, FILE, 1), LOGITS_GGUF, &[FILE, "ends early", DAMAGED]),
        row(
            "a GGUF file cut in its data",
            |d| truncate(d, FILE, 90),
            LOGITS_GGUF,
            &[FILE, "tensor `", "ends after the file's end", DAMAGED],
        ),
        row(
            "more tensors than there are",
            |d| {
                // magic, version, then the number of tensors: 2 blocks of 9, embeddings, last norm and head
                let count = [b"GGUF\x02\0\0\0".as_slice(), &21u64.to_le_bytes()].concat();
                let lie = [b"GGUF\x02\0\0\0".as_slice(), &u64::MAX.to_le_bytes()].concat();
                replace(d, FILE, &count, &lie);
            },
            LOGITS_GGUF,
            &[FILE, "tensor entry 2"],
        ),
        row(
            "an architecture that we lack",
            |d| with_key(d, "general.architecture", text("gemma3")),
            LOGITS_GGUF,
            &[FILE, "`general.architecture`", "`gemma3` is not supported, only `llama`", OTHER],
        ),
        row(
            "a key too few",
            |d| with_key(d, "llama.block_count", None),
            LOGITS_GGUF,
            &[FILE, "`llama.block_count`", "missing", OTHER],
        ),
        row(
            "a key of another type",
            |d| with_key(d, "llama.embedding_length", text("32")),
            LOGITS_GGUF,
            &[FILE, "`llama.embedding_length`", "not a whole number", OTHER],
        ),
        row(
            "no heads",
            |d| with_key(d, "llama.attention.head_count", Some(Value::U32(0))),
            LOGITS_GGUF,
            &[FILE, "`llama.attention.head_count`", "0 is not positive", OTHER],
        ),
        row(
            "a GGUF tensor too few",
            |d| replace(d, FILE, b"blk.1.ffn_up.weight", b"blk.1.ffn_vp.weight"),
            LOGITS_GGUF,
            &[FILE, "`model.layers.1.mlp.up_proj.weight`", "missing"],
        ),
        row(
            "GGUF metadata of a wider model",
            |d| with_key(d, "llama.feed_forward_length", Some(Value::U32(64))),
            LOGITS_GGUF,
            &[FILE, "`model.layers.0.mlp.", "[48, 32]", "[64, 32]"],
        ),
        row(
            "NaN in a GGUF tensor",
            |d| {
                let bytes = std::fs::read(d.join(FILE)).unwrap();
                // The last tensor ends where the file does.
                write(d, FILE, [&bytes[..bytes.len() - 4], &f32::NAN.to_le_bytes()].concat());
            },
            LOGITS_GGUF,
            &[FILE, "tensor `model.", "is NaN"],
        ),
        row(
            "a tokenizer that we lack",
            |d| {
                let mut metadata = metadata();
                metadata.push(("tokenizer.ggml.model", Value::String("bert".into())));
                metadata.push(("tokenizer.ggml.tokens", texts(&["a"])));
                write_gguf(&d.join(FILE), &metadata);
            },
            LOGITS_GGUF,
            &[FILE, "`tokenizer.ggml.model`", "`bert` is not supported, only `gpt2` and `llama`"],
        ),
        row(
            "more tokens than the model has",
            |d| {
                let tokens: Vec<String> = (0..98).map(|i| format!("t{i}")).collect();
                let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
                let mut metadata = metadata();
                metadata.push(("tokenizer.ggml.model", Value::String("gpt2".into())));
                metadata.push(("tokenizer.ggml.tokens", texts(&tokens)));
                metadata.push(("tokenizer.ggml.merges", texts(&[])));
                write_gguf(&d.join(FILE), &metadata);
            },
            LOGITS_GGUF,
            &[FILE, "token `t97`", "97", "vocabulary of 97"],
        ),
        row(
            "a GGUF model without a tokenizer",
            |_| {},
            ["generate", "--model", FILE, "--prompt", "tea"],
            &[FILE, "key `tokenizer.ggml.model`", "without a tokenizer", "Use a file with a tokenizer"],
        ),
    ]
}
