//! A run's settings: the names and defaults of TRL's `SFTConfig`, PEFT's `LoraConfig` and transformers'
//! `BitsAndBytesConfig`.
//!
//! [`KEYS`] is the one table of all keys. Files, flags, help texts, range checks and [`RunConfig::to_toml`] are read
//! from it.

mod keys;
mod nearest;
mod parse;
mod previous;
mod setting;

pub use keys::{KEYS, Key, Table};

use std::fmt::Write;
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::lora::config::LoraConfig;
use crate::prompt_tuning::PromptTuningConfig;
use crate::quant::QuantType;

pub use super::schedule::SchedulerType;

/// What is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// All weights.
    Full,
    /// Adapters beside 16-bit weights.
    Lora,
    /// Adapters beside 4-bit weights.
    Qlora,
    /// Embeddings before every text, the weights in 16 bits.
    PromptTuning,
}

/// The text that a record becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TemplateName {
    /// `### Instruction:` and so on.
    Alpaca,
    /// The model's own chat template, the record as one turn of each side.
    Chat,
}

impl TemplateName {
    /// The name in `data`'s table of templates.
    pub fn name(self) -> &'static str {
        match self {
            Self::Alpaca => "alpaca",
            Self::Chat => crate::data::CHAT,
        }
    }
}

/// Where a run goes on from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resume {
    /// The newest whole checkpoint in `output_dir`, or anew where there is none.
    Auto,
    /// This checkpoint.
    From(PathBuf),
}

/// When something is done in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    No,
    Steps,
    Epoch,
}

/// The type of activations on a GPU. A CPU always computes in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ComputeDtype {
    Bfloat16,
    Float32,
}

/// How `method = "qlora"` stores the frozen weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuantizationConfig {
    /// `None` leaves the weights as they are.
    pub bnb_4bit_quant_type: Option<QuantType>,
    /// Quantize the blocks' scales too.
    pub bnb_4bit_use_double_quant: bool,
    pub bnb_4bit_compute_dtype: ComputeDtype,
}

impl Default for QuantizationConfig {
    fn default() -> Self {
        Self {
            bnb_4bit_quant_type: Some(QuantType::Nf4),
            bnb_4bit_use_double_quant: true,
            bnb_4bit_compute_dtype: ComputeDtype::Bfloat16,
        }
    }
}

/// How the adapters are trained. Units and ranges stand in [`KEYS`].
#[derive(Clone, Debug, PartialEq)]
pub struct SftConfig {
    pub num_train_epochs: f64,
    /// `None` (-1 in a file) lets `num_train_epochs` decide.
    pub max_steps: Option<usize>,
    pub per_device_train_batch_size: usize,
    pub gradient_accumulation_steps: usize,
    pub learning_rate: f64,
    pub lr_scheduler_type: SchedulerType,
    pub warmup_ratio: f64,
    pub max_grad_norm: f64,
    pub weight_decay: f64,
    pub adam_beta1: f64,
    pub adam_beta2: f64,
    pub adam_epsilon: f64,
    pub max_length: usize,
    pub packing: bool,
    pub completion_only_loss: bool,
    pub shuffle: bool,
    pub gradient_checkpointing: bool,
    /// Noise on the embeddings (NEFTune); `None` for none.
    pub neftune_noise_alpha: Option<f64>,
    /// LoRA+: how many times faster than A the matrices B learn; `None` for the same rate.
    pub loraplus_lr_ratio: Option<f64>,
    pub logging_steps: usize,
    pub eval_strategy: Strategy,
    pub eval_steps: usize,
    pub save_strategy: Strategy,
    pub save_steps: usize,
    pub save_total_limit: usize,
}

impl Default for SftConfig {
    fn default() -> Self {
        Self {
            num_train_epochs: 3.0,
            max_steps: None,
            per_device_train_batch_size: 2,
            gradient_accumulation_steps: 4,
            learning_rate: 2e-4,
            lr_scheduler_type: SchedulerType::Cosine,
            warmup_ratio: 0.03,
            max_grad_norm: 0.3,
            weight_decay: 0.0,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            max_length: 1024,
            packing: true,
            completion_only_loss: false,
            shuffle: true,
            gradient_checkpointing: true,
            neftune_noise_alpha: None,
            loraplus_lr_ratio: None,
            logging_steps: 10,
            eval_strategy: Strategy::Epoch,
            eval_steps: 100,
            save_strategy: Strategy::Epoch,
            save_steps: 500,
            save_total_limit: 3,
        }
    }
}

/// A whole run.
///
/// `data` and `output_dir` have no default and must be set; [`RunConfig::validate`] says so.
///
/// ```
/// use ferrotune::train::config::RunConfig;
///
/// let mut config = RunConfig { data: "train.jsonl".into(), output_dir: "runs/a".into(), ..Default::default() };
/// config.sft.learning_rate = 1e-4;
/// config.validate()?;
/// # Ok::<(), ferrotune::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct RunConfig {
    /// A name or path of the base model.
    pub model: String,
    /// A name or path of the training data; empty where it was not set.
    pub data: String,
    /// A name or path of held-out data.
    pub eval_data: Option<String>,
    /// The run's folder; empty where it was not set.
    pub output_dir: PathBuf,
    pub method: Method,
    pub template: TemplateName,
    /// Seeds the adapters' start, the order of the data and dropout.
    pub seed: u64,
    /// A PEFT adapter to start from.
    pub init_adapter: Option<PathBuf>,
    /// `None` starts anew (`false` in a file).
    pub resume_from_checkpoint: Option<Resume>,
    pub lora: LoraConfig,
    pub prompt_tuning: PromptTuningConfig,
    pub quantization: QuantizationConfig,
    pub sft: SftConfig,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            model: "smollm2-135m".into(),
            data: String::new(),
            eval_data: None,
            output_dir: PathBuf::new(),
            method: Method::Qlora,
            template: TemplateName::Alpaca,
            seed: 0,
            init_adapter: None,
            resume_from_checkpoint: Some(Resume::Auto),
            lora: LoraConfig::default(),
            prompt_tuning: PromptTuningConfig::default(),
            quantization: QuantizationConfig::default(),
            sft: SftConfig::default(),
        }
    }
}

impl RunConfig {
    /// Checks everything that can be checked without reading the model or the data.
    ///
    /// Errors: [`Error::Config`] with the key's name.
    pub fn validate(&self) -> Result<()> {
        let mut scratch = Self::default();
        for key in KEYS {
            if let Some(value) = key.value(self) {
                key.apply(&mut scratch, &value, &parse::Place::Code)?;
            }
        }
        parse::check_together(self, |_| parse::Place::Code)?;
        let missing = |key: &str, flag: &str, hint: &str| {
            Err(Error::config(
                "",
                format!("`{key}` is not set"),
                format!("{hint} with `{key}` in the config or `{flag}`."),
            ))
        };
        if self.data.is_empty() {
            return missing("data", "--data", "Name a `.json` or `.jsonl` file of training examples");
        }
        if self.output_dir.as_os_str().is_empty() {
            return missing("output_dir", "--output-dir", "Name the folder that the run is written to");
        }
        Ok(())
    }

    /// The run as a config file that [`RunConfig::from_toml`] reads back to an equal value. Keys without a value are
    /// left out.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        for table in Table::ALL {
            let set = KEYS.iter().filter(|key| key.table == table).filter_map(|key| Some((key, key.value(self)?)));
            for (i, (key, value)) in set.enumerate() {
                if let Some(name) = table.name().filter(|_| i == 0) {
                    let _ = write!(text, "\n[{name}]\n");
                }
                let _ = writeln!(text, "{} = {value}", key.name);
            }
        }
        text
    }
}
