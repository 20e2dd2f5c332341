//! The tokenizer as GGUF metadata: the way back from [`crate::model::tokenizer`].

use std::collections::HashMap;

use candle_core::quantized::gguf_file::Value;
use serde_json::Value as Json;

use super::metadata::Metadata;
use crate::model::Pretrained;
use crate::model::tokenizer::{END_OF_TURN, LLAMA3_SPLIT};
use crate::{Error, Result};

/// Types in `tokenizer.ggml.token_type`.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// The keys of a tokenizer and the chat template; none for a model without a tokenizer.
pub(super) fn metadata(pretrained: &Pretrained) -> Result<Metadata> {
    let Ok(tokenizer) = pretrained.tokenizer() else { return Ok(Metadata::new()) };
    let json = serde_json::to_value(tokenizer)
        .map_err(|e| Error::Shape { op: "tokenizer", what: format!("it cannot be written: {e}") })?;
    let model = &json["model"];
    if model["type"] != "BPE" {
        return Err(unsupported(pretrained, format!("its kind is {}, and only BPE can be written", model["type"])));
    }
    let byte_fallback = model["byte_fallback"] == true;
    let (tokens, types) = vocabulary(pretrained, &json, byte_fallback);
    let merges: Vec<String> = model["merges"].as_array().into_iter().flatten().filter_map(merge).collect();

    let mut metadata = Metadata::new();
    let mut put = |key: &str, value| metadata.push((format!("tokenizer.{key}"), value));
    put("ggml.model", Value::String(if byte_fallback { "llama" } else { "gpt2" }.into()));
    put("ggml.pre", Value::String(split(pretrained, &json, byte_fallback)?.into()));
    if byte_fallback {
        put("ggml.scores", Value::Array(scores(&tokens, &merges).into_iter().map(Value::F32).collect()));
        put("ggml.add_space_prefix", Value::Bool(adds_space(&json)));
    }
    put("ggml.tokens", Value::Array(tokens.iter().cloned().map(Value::String).collect()));
    put("ggml.token_type", Value::Array(types.into_iter().map(Value::I32).collect()));
    put("ggml.merges", Value::Array(merges.into_iter().map(Value::String).collect()));
    let id_of = |token: &str| tokens.iter().position(|t| t == token).map(|id| id as u32);
    let unknown = model["unk_token"].as_str().and_then(id_of);
    let eot = END_OF_TURN.iter().filter_map(|token| id_of(token)).find(|id| pretrained.eos_token_ids.contains(id));
    let ids = [
        ("bos", pretrained.bos_token_id),
        ("eos", pretrained.eos_token_ids.first().copied()),
        ("eot", eot),
        ("unknown", unknown),
    ];
    for (name, id) in ids {
        if let Some(id) = id {
            put(&format!("ggml.{name}_token_id"), Value::U32(id));
        }
    }
    put("ggml.add_bos_token", Value::Bool(pretrained.leading_bos().is_some()));
    put("ggml.add_eos_token", Value::Bool(false));
    if let Some(template) = &pretrained.chat_template {
        put("chat_template", Value::String(template.clone()));
    }
    Ok(metadata)
}

/// Every id's token and type, as many as the embedding has rows.
fn vocabulary(pretrained: &Pretrained, json: &Json, byte_fallback: bool) -> (Vec<String>, Vec<i32>) {
    let size = pretrained.config.vocab_size;
    let mut tokens: Vec<String> = (0..size).map(|id| format!("[PAD{id}]")).collect();
    let mut types = vec![UNUSED; size];
    let unknown = json["model"]["unk_token"].as_str();
    for (token, id) in json["model"]["vocab"].as_object().into_iter().flatten() {
        let Some(id) = id.as_u64().map(|id| id as usize).filter(|id| *id < size) else { continue };
        let is_byte = byte_fallback && token.len() == 6 && token.starts_with("<0x") && token.ends_with('>');
        types[id] = match token {
            _ if is_byte => BYTE,
            _ if unknown == Some(token) => UNKNOWN,
            _ => NORMAL,
        };
        tokens[id].clone_from(token);
    }
    for added in json["added_tokens"].as_array().into_iter().flatten() {
        let (Some(id), Some(content)) = (added["id"].as_u64(), added["content"].as_str()) else { continue };
        let Some(slot) = types.get_mut(id as usize) else { continue };
        if *slot != UNKNOWN {
            *slot = if added["special"] == true { CONTROL } else { USER_DEFINED };
        }
        tokens[id as usize] = content.into();
    }
    (tokens, types)
}

/// A merge as `left right`, from either way in which `tokenizer.json` has it.
fn merge(merge: &Json) -> Option<String> {
    match merge {
        Json::String(text) => Some(text.clone()),
        Json::Array(pair) => Some(format!("{} {}", pair.first()?.as_str()?, pair.get(1)?.as_str()?)),
        _ => None,
    }
}

/// llama.cpp's name for the rule that cuts text into words.
fn split(pretrained: &Pretrained, json: &Json, byte_fallback: bool) -> Result<&'static str> {
    if byte_fallback {
        return Ok("default");
    }
    let pre = &json["pre_tokenizer"];
    let steps: Vec<&Json> = match pre["type"].as_str() {
        Some("Sequence") => pre["pretokenizers"].as_array().into_iter().flatten().collect(),
        _ => vec![pre],
    };
    let kind = |step: &Json, name: &str| step["type"] == name;
    let words = |step: &Json, uses: bool| kind(step, "ByteLevel") && (step["use_regex"] != false) == uses;
    match steps[..] {
        [bytes] if words(bytes, true) => Ok("gpt-2"),
        [digits, bytes] if kind(digits, "Digits") && digits["individual_digits"] == true && words(bytes, true) => {
            Ok("smollm")
        }
        [split, bytes] if kind(split, "Split") && split["pattern"]["Regex"] == LLAMA3_SPLIT && words(bytes, false) => {
            Ok("llama-bpe")
        }
        _ => {
            let what = "it splits text by a rule that is none of `gpt-2`, `smollm` and `llama-bpe`";
            Err(unsupported(pretrained, what.into()))
        }
    }
}

/// SentencePiece's scores, by which llama.cpp merges: the earlier a token's merge comes, the higher.
fn scores(tokens: &[String], merges: &[String]) -> Vec<f32> {
    let mut rank: HashMap<String, usize> = HashMap::new();
    for (i, merge) in merges.iter().enumerate() {
        rank.entry(merge.replacen(' ', "", 1)).or_insert(i);
    }
    tokens.iter().map(|token| rank.get(token).map_or(0.0, |rank| -(*rank as f32))).collect()
}

/// Whether a text gets a space in front, by a normalizer or by the pre-tokenizer.
fn adds_space(json: &Json) -> bool {
    let steps = json["normalizer"]["normalizers"].as_array();
    let prepends = |step: &Json| step["type"] == "Prepend" && step["prepend"] == "▁";
    let metaspace = &json["pre_tokenizer"];
    steps.is_some_and(|steps| steps.iter().any(prepends))
        || (metaspace["type"] == "Metaspace" && metaspace["prepend_scheme"] != "never")
}

fn unsupported(pretrained: &Pretrained, what: String) -> Error {
    let what = format!("the tokenizer of `{}` cannot be written to a GGUF file: {what}", pretrained.path.display());
    Error::config("", what, "Convert the model with llama.cpp's `convert_hf_to_gguf.py`.")
}
