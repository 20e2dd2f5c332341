//! Opens a model: a directory in Hugging Face's layout, or a GGUF file.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::Tokenizer;

use crate::model::config::{Config, token_ids};
use crate::model::tokenizer;
use crate::model::weights::gguf::Gguf;
use crate::model::weights::safetensors::Safetensors;
use crate::model::weights::{self, WeightSource};
use crate::{Error, Result, files};

/// A model on disk: everything but the weights is read, and the weights are known to be there in the config's shapes.
///
/// The weights stay memory-mapped as long as this lives, so drop it once they are loaded.
pub struct Pretrained {
    pub path: PathBuf,
    pub config: Config,
    pub weights: Box<dyn WeightSource>,
    pub chat_template: Option<String>,
    pub bos_token_id: Option<u32>,
    /// Ids that end an answer; the first is the tokenizer's end of sequence, which ends every training example.
    pub eos_token_ids: Vec<u32>,
    tokenizer: Option<Tokenizer>,
}

impl Pretrained {
    /// The model's tokenizer.
    ///
    /// Errors: [`Error::Read`] or, for a GGUF file, [`Error::Format`] where the model came without one.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        self.tokenizer.as_ref().ok_or_else(|| {
            if self.path.is_dir() {
                let hint = "The model came without a tokenizer; copy its `tokenizer.json` into the folder.";
                return Error::absent(self.path.join("tokenizer.json"), hint);
            }
            let hint = "Use a file with a tokenizer, as llama.cpp's `convert_hf_to_gguf.py` writes it.";
            Error::format(&self.path, "key `tokenizer.ggml.model`", "the file came without a tokenizer", hint)
        })
    }

    /// The token that ends every example.
    ///
    /// Errors: [`Error::Config`] where neither tokenizer nor config names one.
    pub fn eos_token_id(&self) -> Result<u32> {
        self.eos_token_ids.first().copied().ok_or_else(|| {
            let what = format!("`{}` names no end-of-sequence token", self.path.display());
            Error::config("", what, "Set `eos_token_id` in the model's `config.json`.")
        })
    }

    /// The beginning-of-sequence id, if the tokenizer puts it before every text (Llama does, SmolLM2 does not).
    pub fn leading_bos(&self) -> Option<u32> {
        let first = self.tokenizer.as_ref()?.encode("", true).ok()?.get_ids().first().copied();
        first.filter(|id| self.bos_token_id == Some(*id))
    }
}

/// Opens a directory with `config.json` and safetensors (single, sharded, or bitsandbytes 4-bit), or a `.gguf` file.
///
/// Errors: [`Error::Read`], [`Error::Format`] and [`Error::Tensor`], each naming file and key or tensor: whatever is wrong
/// with the model's files is found here, but for the values of the weights.
pub fn open(path: &Path) -> Result<Pretrained> {
    let kind = std::fs::metadata(path).map_err(|source| {
        let hint = "Name an alias such as `smollm2-135m`, a model's folder, or a `.gguf` file.".into();
        Error::Read { path: path.into(), hint, source }
    })?;
    let pretrained = if kind.is_dir() {
        open_directory(path)?
    } else if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) {
        open_gguf(path)?
    } else {
        return Err(Error::format(
            path,
            "",
            "a model is a folder or a `.gguf` file",
            "For a `.safetensors` file, pass the folder that holds it and `config.json`.",
        ));
    };
    weights::check(pretrained.weights.as_ref(), &pretrained.config)?;
    Ok(pretrained)
}

fn open_gguf(path: &Path) -> Result<Pretrained> {
    let gguf = Gguf::open(path)?;
    let tokenizer = tokenizer::from_gguf(gguf.file())?;
    let config = gguf.config().clone();
    if let Some(tokenizer) = &tokenizer {
        tokenizer::check(tokenizer, config.vocab_size, path)?;
    }
    let eos_token_ids = within(tokenizer::gguf_eos(gguf.file(), tokenizer.as_ref())?, config.vocab_size);
    let chat_template = gguf.file().text("tokenizer.chat_template")?.map(Into::into);
    Ok(Pretrained {
        path: path.into(),
        chat_template,
        bos_token_id: config.bos_token_id,
        eos_token_ids,
        tokenizer,
        config,
        weights: Box::new(gguf),
    })
}

fn open_directory(path: &Path) -> Result<Pretrained> {
    let config_path = path.join("config.json");
    if !config_path.exists() {
        let hint = if path.join("adapter_config.json").exists() {
            "This is an adapter; pass it as the adapter, beside the model that it was trained on."
        } else {
            "A model's folder holds `config.json`, safetensors and `tokenizer.json`."
        };
        return Err(Error::absent(config_path, hint));
    }
    let config = Config::from_file(&config_path)?;
    let weights = Box::new(Safetensors::open(path)?);
    let tokenizer_path = path.join("tokenizer.json");
    let tokenizer = tokenizer_path.exists().then(|| tokenizer::from_file(&tokenizer_path)).transpose()?;
    if let Some(tokenizer) = &tokenizer {
        tokenizer::check(tokenizer, config.vocab_size, &tokenizer_path)?;
    }
    let settings = optional_json(&path.join("tokenizer_config.json"))?;
    let generation_path = path.join("generation_config.json");
    let generation = optional_json(&generation_path)?;

    let named = |key: &str| {
        let token = settings.as_ref()?.get(key)?;
        let content = token.as_str().or_else(|| token.get("content")?.as_str())?;
        tokenizer.as_ref()?.token_to_id(content)
    };
    let mut eos: Vec<u32> = named("eos_token").into_iter().collect();
    if let Some(value) = generation.as_ref().and_then(|g| g.get("eos_token_id")).filter(|v| !v.is_null()) {
        eos.extend(token_ids(value).ok_or_else(|| {
            let what = format!("`{value}` is not a token id or a list of them");
            Error::format(&generation_path, "key `eos_token_id`", what, "Copy the file from the model again.")
        })?);
    }
    eos.extend(&config.eos_token_ids);
    Ok(Pretrained {
        path: path.into(),
        chat_template: chat_template(path, settings.as_ref())?,
        bos_token_id: named("bos_token").or(config.bos_token_id),
        eos_token_ids: within(eos, config.vocab_size),
        tokenizer,
        config,
        weights,
    })
}

/// Each id once, in order; ids that the model cannot produce are left out.
fn within(ids: Vec<u32>, vocab_size: usize) -> Vec<u32> {
    let mut kept = Vec::new();
    for id in ids {
        if (id as usize) < vocab_size && !kept.contains(&id) {
            kept.push(id);
        }
    }
    kept
}

fn optional_json(path: &Path) -> Result<Option<Value>> {
    if !path.exists() {
        return Ok(None);
    }
    serde_json::from_slice(&files::read(path)?).map(Some).map_err(|e| {
        let place = format!("line {}", e.line());
        Error::format(path, place, format!("this is not valid JSON ({e})"), "Copy the file from the model again.")
    })
}

/// From `chat_template.jinja`, else `tokenizer_config.json`: a text, or a list of named ones, of which `default` is taken.
fn chat_template(directory: &Path, settings: Option<&Value>) -> Result<Option<String>> {
    let file = directory.join("chat_template.jinja");
    if file.exists() {
        return std::fs::read_to_string(&file).map(Some).map_err(|e| Error::read(file, e));
    }
    let template = match settings.and_then(|s| s.get("chat_template")) {
        Some(Value::Array(list)) => {
            let default = list.iter().find(|t| t.get("name").and_then(Value::as_str) == Some("default"));
            default.and_then(|t| t.get("template"))
        }
        other => other,
    };
    Ok(template.and_then(Value::as_str).map(Into::into))
}
