//! Whole models written for other programs: merged with an adapter, quantized as bitsandbytes stores them, or as GGUF.
//!
//! At most a few hundred megabytes of weights are in memory at a time, however large the model.

mod checkpoint;
mod gguf;
mod merged;
mod quantized;
mod verify;

use std::path::Path;

use candle_core::Tensor;
use serde_json::{Map, Value, json};

use super::pretrained::Pretrained;
use super::weights::check_finite_from;
use crate::{Error, Result, files};

pub use checkpoint::MODEL_FILE;
pub use gguf::{GgufType, write_gguf};
pub use merged::write_merged;
pub use quantized::write_quantized;
pub use verify::{Difference, Verification, difference, verify_merged};

/// How much a file of a checkpoint holds at most if nobody says otherwise: transformers' 5 GB.
pub const SHARD_BYTES: u64 = 5_000_000_000;

/// Elements of a weight that are read at a time; a linear of a 3B model has fewer.
const CHUNK: usize = 32 << 20;

/// The weight `name` in parts of whole rows, f32 and known to be finite; `each` hears of the first row of every part.
fn chunks(pretrained: &Pretrained, name: &str, mut each: impl FnMut(usize, Tensor) -> Result<()>) -> Result<()> {
    let shape = shape(pretrained, name)?;
    let rows = shape.first().copied().unwrap_or(1);
    let columns = shape.iter().skip(1).product::<usize>().max(1);
    let step = (CHUNK / columns).clamp(1, rows.max(1));
    for start in (0..rows).step_by(step) {
        let part = pretrained.weights.rows(name, start, step.min(rows - start))?;
        check_finite_from(name, pretrained.weights.path(), start * columns, &part)?;
        each(start, part)?;
    }
    Ok(())
}

fn shape(pretrained: &Pretrained, name: &str) -> Result<Vec<usize>> {
    pretrained.weights.shape(name).ok_or_else(|| {
        let hint = "Copy the model again.";
        Error::tensor(name, pretrained.weights.path(), "it is missing", hint)
    })
}

/// Config, tokenizer and chat template, as transformers names them.
///
/// Files of a model that was a directory are copied; those of a GGUF file are made from its metadata.
pub fn write_companions(pretrained: &Pretrained, config: Map<String, Value>, directory: &Path) -> Result<()> {
    files::create_directory(directory)?;
    let json = |name: &str, value: &Value| {
        let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
        text.push('\n');
        files::write_atomic(&directory.join(name), text.as_bytes())
    };
    json("config.json", &Value::Object(config))?;
    let copied = [
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "generation_config.json",
        "chat_template.jinja",
    ];
    for name in copied {
        let source = pretrained.path.join(name);
        if source.is_file() {
            files::write_atomic(&directory.join(name), &files::read(&source)?)?;
        }
    }
    if pretrained.path.is_dir() {
        return Ok(());
    }
    let tokenizer = pretrained.tokenizer()?;
    let text = tokenizer.to_string(true).map_err(|e| Error::Shape { op: "tokenizer", what: e.to_string() })?;
    files::write_atomic(&directory.join("tokenizer.json"), text.as_bytes())?;
    let token = |id: Option<u32>| id.and_then(|id| tokenizer.id_to_token(id));
    let eos = pretrained.eos_token_ids.first().copied();
    json(
        "tokenizer_config.json",
        &json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": token(pretrained.bos_token_id),
            "eos_token": token(eos),
            "chat_template": pretrained.chat_template,
            "clean_up_tokenization_spaces": false,
        }),
    )?;
    json(
        "generation_config.json",
        &json!({"bos_token_id": pretrained.bos_token_id, "eos_token_id": pretrained.eos_token_ids}),
    )
}

/// `config.json` as it was read, or as GGUF metadata gave it.
pub fn config_object(pretrained: &Pretrained) -> Map<String, Value> {
    pretrained.config.raw.as_object().cloned().unwrap_or_default()
}

/// Names the type of the weights, under the key that the config has for it.
pub fn set_dtype(config: &mut Map<String, Value>, name: &str) {
    let key = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
    config.insert(key.into(), json!(name));
}
