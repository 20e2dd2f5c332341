//! Prompt tuning (Lester et al., arXiv:2104.08691): the model stays as it is, and some embeddings that stand before every text are
//! trained. They are the *virtual tokens*: they have no word, and take the first positions of each sequence.
//!
//! Files are PEFT's: `prompt_embeddings` `[P, H]` in `adapter_model.safetensors`, and `adapter_config.json` with
//! `peft_type` `PROMPT_TUNING`. Source: PEFT `src/peft/tuners/prompt_tuning/`, `src/peft/peft_model.py`.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};
use tokenizers::Tokenizer;

use crate::lora::init::normal;
use crate::lora::peft::{CONFIG_FILE, WEIGHTS_FILE};
use crate::{Error, Result, files};

/// The tensor's name in the file.
pub const KEY: &str = "prompt_embeddings";
/// PEFT's name of the method.
pub const PEFT_TYPE: &str = "PROMPT_TUNING";

/// How the virtual tokens start; PEFT's `prompt_tuning_init`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PromptInit {
    /// As tokens drawn from the vocabulary.
    SampleVocab,
    /// From a standard normal distribution, which is far longer than a model's embeddings: PEFT's default.
    Random,
    /// As the tokens of a text, repeated or cut to the number.
    Text,
}

impl PromptInit {
    fn name(self) -> &'static str {
        match self {
            Self::SampleVocab => "SAMPLE_VOCAB",
            Self::Random => "RANDOM",
            Self::Text => "TEXT",
        }
    }
}

/// PEFT's `PromptTuningConfig`, as far as it concerns a decoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptTuningConfig {
    pub num_virtual_tokens: usize,
    pub prompt_tuning_init: PromptInit,
    /// For [`PromptInit::Text`].
    pub prompt_tuning_init_text: Option<String>,
}

impl Default for PromptTuningConfig {
    fn default() -> Self {
        Self { num_virtual_tokens: 20, prompt_tuning_init: PromptInit::SampleVocab, prompt_tuning_init_text: None }
    }
}

/// The trained embeddings of one model.
///
/// The tensor shares its storage with the optimizer, which updates it in place.
#[derive(Clone, Debug)]
pub struct SoftPrompt {
    pub config: PromptTuningConfig,
    /// What it was trained on: a Hub name or a path.
    pub base_model: String,
    /// `[P, H]` f32
    pub embeddings: Tensor,
    /// The model's, which PEFT's file names.
    pub num_layers: usize,
    pub num_attention_heads: usize,
}

impl SoftPrompt {
    /// A prompt as it is before training: `[P, H]` values for a model whose embeddings are `embed_tokens` `[V, H]`.
    ///
    /// Errors: [`Error::Config`] for a text that has no tokens; candle's.
    pub fn first_embeddings(
        config: &PromptTuningConfig,
        embed_tokens: &Tensor,
        tokenizer: &Tokenizer,
        seed: u64,
    ) -> Result<Tensor> {
        let (count, (vocabulary, hidden)) = (config.num_virtual_tokens, embed_tokens.dims2()?);
        let device = embed_tokens.device();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let ids: Vec<u32> = match config.prompt_tuning_init {
            PromptInit::Random => {
                let values: Vec<f32> = (0..count * hidden).map(|_| normal(&mut rng) as f32).collect();
                return Ok(Tensor::from_vec(values, (count, hidden), device)?);
            }
            PromptInit::SampleVocab => (0..count).map(|_| rng.random_range(0..vocabulary as u32)).collect(),
            PromptInit::Text => {
                let text = config.prompt_tuning_init_text.as_deref().unwrap_or_default();
                let encoding = tokenizer.encode(text, true).map(|encoding| encoding.get_ids().to_vec());
                let ids = encoding.unwrap_or_default();
                if ids.is_empty() {
                    let what = "`prompt_tuning_init_text` has no tokens";
                    return Err(Error::config("", what, "Write what the model is to do, in a sentence."));
                }
                ids.into_iter().cycle().take(count).collect()
            }
        };
        Ok(embed_tokens.index_select(&Tensor::new(ids, device)?, 0)?.to_dtype(DType::F32)?)
    }

    /// Writes PEFT's two files into `directory`: each atomically, the embeddings last.
    ///
    /// Errors: [`Error::Write`].
    pub fn save(&self, directory: &Path) -> Result<()> {
        files::create_directory(directory)?;
        let text = self.config.prompt_tuning_init_text.as_deref();
        let is_text = self.config.prompt_tuning_init == PromptInit::Text;
        let config = json!({
            "auto_mapping": null,
            "base_model_name_or_path": self.base_model,
            "inference_mode": true,
            "num_attention_heads": self.num_attention_heads,
            "num_layers": self.num_layers,
            "num_transformer_submodules": 1,
            "num_virtual_tokens": self.config.num_virtual_tokens,
            "peft_type": PEFT_TYPE,
            "prompt_tuning_init": self.config.prompt_tuning_init.name(),
            "prompt_tuning_init_text": text.filter(|_| is_text),
            "revision": null,
            "task_type": "CAUSAL_LM",
            "token_dim": self.embeddings.dim(1)?,
            "tokenizer_kwargs": null,
            "tokenizer_name_or_path": is_text.then_some(&self.base_model),
        });
        let mut text = serde_json::to_string_pretty(&config).unwrap_or_default();
        text.push('\n');
        files::write_atomic(&directory.join(CONFIG_FILE), text.as_bytes())?;
        files::write_safetensors(&directory.join(WEIGHTS_FILE), [(KEY, self.embeddings.clone().into())])
    }

    /// Loads a prompt for a model of `hidden` numbers a token.
    ///
    /// Errors: [`Error::Read`], [`Error::Format`] for files that are absent or broken; [`Error::Tensor`] for embeddings that are
    /// missing, of another model's shape, or not finite.
    pub fn load(directory: &Path, hidden: usize, device: &Device) -> Result<Self> {
        let path = directory.join(CONFIG_FILE);
        let fields = read(&path)?;
        let bad = |key: &str, what: &str| {
            Error::format(&path, format!("key `{key}`"), what, "Restore the file as PEFT wrote it.")
        };
        let number = |key: &str| {
            let number = fields.get(key).and_then(Value::as_u64).filter(|n| *n > 0);
            number.map(|n| n as usize).ok_or_else(|| bad(key, "is not a positive whole number"))
        };
        let text = |key: &str| fields.get(key).and_then(Value::as_str);
        if text("peft_type") != Some(PEFT_TYPE) {
            return Err(bad("peft_type", "is not \"PROMPT_TUNING\""));
        }
        let config = PromptTuningConfig {
            num_virtual_tokens: number("num_virtual_tokens")?,
            prompt_tuning_init: match text("prompt_tuning_init") {
                Some("TEXT") => PromptInit::Text,
                Some("RANDOM") => PromptInit::Random,
                _ => PromptInit::SampleVocab,
            },
            prompt_tuning_init_text: text("prompt_tuning_init_text").map(Into::into),
        };
        let base_model = text("base_model_name_or_path").unwrap_or_default().to_owned();
        let path = directory.join(WEIGHTS_FILE);
        let stored = candle_core::safetensors::load_buffer(&files::read(&path)?, &Device::Cpu).map_err(|e| {
            let what = format!("not a whole safetensors file ({e})");
            Error::format(&path, "", what, "Train or download the prompt again.")
        })?;
        let wrong = |what: String| {
            let hint = match base_model.as_str() {
                "" => "Pass the model that the prompt was trained on.".into(),
                name => format!("The prompt was trained on `{name}`; pass that as the model."),
            };
            Error::tensor(KEY, &path, what, hint)
        };
        let embeddings = stored.get(KEY).ok_or_else(|| wrong("missing from the file".into()))?;
        let shape = [config.num_virtual_tokens, hidden];
        if embeddings.dims() != shape {
            return Err(wrong(format!("has shape {:?}, but the model needs {shape:?}", embeddings.dims())));
        }
        let embeddings = embeddings.to_dtype(DType::F32)?;
        if !embeddings.abs()?.sum_all()?.to_scalar::<f32>()?.is_finite() {
            return Err(wrong("holds a value that is not finite".into()));
        }
        Ok(Self {
            config,
            base_model,
            embeddings: embeddings.to_device(device)?,
            num_layers: number("num_layers").unwrap_or(0),
            num_attention_heads: number("num_attention_heads").unwrap_or(0),
        })
    }
}

/// Whether the adapter in `directory` is a prompt, by its `adapter_config.json`.
///
/// Errors: [`Error::Read`] and [`Error::Format`] for that file.
pub fn is_prompt(directory: &Path) -> Result<bool> {
    Ok(read(&directory.join(CONFIG_FILE))?.get("peft_type").and_then(Value::as_str) == Some(PEFT_TYPE))
}

fn read(path: &Path) -> Result<Map<String, Value>> {
    serde_json::from_slice(&files::read(path)?).map_err(|e| {
        let place = format!("line {}, column {}", e.line(), e.column());
        Error::format(path, place, format!("not a JSON object ({e})"), "Restore the file as PEFT wrote it.")
    })
}
