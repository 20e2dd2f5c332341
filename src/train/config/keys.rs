//! The table of config keys.

use std::collections::BTreeMap;
use std::path::PathBuf;

use toml::Value;

use super::parse::Place;
use super::setting::{Refusal, Setting, checked};
use super::{Method, Resume, RunConfig};
use crate::error::{Error, Result};

/// Where in a config file a key stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// Before the first table.
    Run,
    Lora,
    PromptTuning,
    Quantization,
    Sft,
}

impl Table {
    pub const ALL: [Self; 5] = [Self::Run, Self::Lora, Self::PromptTuning, Self::Quantization, Self::Sft];

    /// The table's name in a file; none for [`Table::Run`].
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::Run => None,
            Self::Lora => Some("lora"),
            Self::PromptTuning => Some("prompt_tuning"),
            Self::Quantization => Some("quantization"),
            Self::Sft => Some("sft"),
        }
    }
}

/// One config key.
pub struct Key {
    pub name: &'static str,
    pub table: Table,
    /// What a value is, to stand after "must be".
    pub expects: &'static str,
    /// One line of help, without a full stop.
    pub help: &'static str,
    get: fn(&RunConfig) -> Option<Value>,
    set: fn(&mut RunConfig, &Value) -> Result<(), Refusal>,
}

impl Key {
    /// The key called `name`.
    pub fn find(name: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.name == name)
    }

    /// The command line's flag: `--learning-rate`.
    pub fn flag(&self) -> String {
        format!("--{}", self.name.replace('_', "-"))
    }

    /// Whether every text is a possible value, so that a flag's text is taken as it is.
    pub(super) fn is_text(&self) -> bool {
        matches!(self.name, "model" | "data" | "eval_data" | "output_dir" | "init_adapter" | "prompt_tuning_init_text")
    }

    /// The value in `config`; none where it is not set.
    pub fn value(&self, config: &RunConfig) -> Option<Value> {
        (self.get)(config)
    }

    /// The value that a run has which does not set the key; none where there is no default.
    pub fn default(&self) -> Option<Value> {
        self.value(&RunConfig::default())
    }

    /// Sets the key in `config`, or says why not and where it was given.
    pub(super) fn apply(&self, config: &mut RunConfig, value: &Value, place: &Place) -> Result<()> {
        (self.set)(config, value).map_err(|refusal| {
            let (what, hint) = match refusal {
                Refusal::Unfit => (format!("`{}` is `{value}`", self.name), format!("It must be {}.", self.expects)),
                Refusal::Unavailable { feature, hint } => {
                    (format!("this version has no {feature}: `{} = {value}`", self.name), hint.to_owned())
                }
            };
            Error::config(place.detail(self), what + &place.file(), hint)
        })
    }
}

const PART: &str = "a number from 0 up to, but not including, 1";
const COUNT: &str = "a whole number of at least 1";
const POSITIVE: &str = "a number above 0";
const NOT_NEGATIVE: &str = "a number of at least 0";
const SWITCH: &str = "true or false";
const WHEN: &str = "`\"no\"`, `\"steps\"` or `\"epoch\"`";

macro_rules! key {
    ($table:ident, $name:literal, $($field:ident).+, $fits:expr, $expects:expr, $help:expr) => {
        Key {
            name: $name,
            table: Table::$table,
            expects: $expects,
            help: $help,
            get: |config| config.$($field).+.show(),
            set: |config, value| {
                config.$($field).+ = checked(value, $fits)?;
                Ok(())
            },
        }
    };
}

/// A key of `[prompt_tuning]`, which says nothing of a run by another method.
macro_rules! prompt_key {
    ($name:literal, $field:ident, $fits:expr, $expects:expr, $help:expr) => {
        Key {
            name: $name,
            table: Table::PromptTuning,
            expects: $expects,
            help: $help,
            get: |config| match config.method {
                Method::PromptTuning => config.prompt_tuning.$field.show(),
                _ => None,
            },
            set: |config, value| {
                config.prompt_tuning.$field = checked(value, $fits)?;
                Ok(())
            },
        }
    };
}

/// Every key, in the order of a config file.
#[rustfmt::skip]
pub static KEYS: &[Key] = &[
    key!(Run, "model", model, |s: &String| !s.is_empty(), "a name or a path", "Base model: an alias (smollm2-135m), hf:org/name[@revision], a folder with safetensors, or a .gguf file"),
    key!(Run, "data", data, |s: &String| !s.is_empty(), "a name or a path", "Training data: a .json or .jsonl file, or a folder of them"),
    key!(Run, "eval_data", eval_data, |s: &Option<String>| s.as_ref().is_none_or(|s| !s.is_empty()), "a name or a path", "Held-out data; without it nothing is evaluated"),
    key!(Run, "output_dir", output_dir, |p: &PathBuf| !p.as_os_str().is_empty(), "a path", "Folder that the run is written to"),
    key!(Run, "method", method, |_| true, "`\"full\"`, `\"lora\"`, `\"qlora\"` or `\"prompt-tuning\"`", "What is trained: all weights (full), adapters (lora), adapters beside 4-bit weights (qlora), or embeddings before the text (prompt-tuning)"),
    key!(Run, "template", template, |_| true, "`\"alpaca\"` or `\"chat\"`", "Text of an example: alpaca, or the model's own chat template (chat)"),
    key!(Run, "seed", seed, |n: &u64| i64::try_from(*n).is_ok(), "a whole number of at least 0", "Seed of the adapters, the order of the data and dropout"),
    key!(Run, "init_adapter", init_adapter, |p: &Option<PathBuf>| p.as_ref().is_none_or(|p| !p.as_os_str().is_empty()), "a path", "PEFT adapter to start from"),
    key!(Run, "resume_from_checkpoint", resume_from_checkpoint, |_: &Option<Resume>| true, "`\"auto\"`, false or a checkpoint's folder", "Checkpoint to go on from: auto (the newest in output_dir, if any), a folder, or false"),
    key!(Lora, "r", lora.r, |n: &usize| *n >= 1, COUNT, "Rank of the adapters"),
    key!(Lora, "lora_alpha", lora.lora_alpha, |x: &f64| *x > 0.0, POSITIVE, "Adapters are scaled by lora_alpha / r"),
    key!(Lora, "lora_dropout", lora.lora_dropout, |x: &f64| (0.0..1.0).contains(x), PART, "Part of the adapters' inputs dropped in training"),
    key!(Lora, "target_modules", lora.target_modules, |_| true, "`\"all-linear\"` or a list of layer names such as `[\"q_proj\", \"v_proj\"]`", "Layers that get an adapter: names, or all-linear"),
    key!(Lora, "use_rslora", lora.use_rslora, |_| true, SWITCH, "Scale by lora_alpha / sqrt(r) instead"),
    key!(Lora, "use_dora", lora.use_dora, |_| true, SWITCH, "DoRA: train the length of each row of the weights, too"),
    key!(Lora, "init_lora_weights", lora.init_lora_weights, |_| true, "true or `\"gaussian\"`", "How adapters start: true (Kaiming-uniform A, zero B) or gaussian"),
    key!(Lora, "rank_pattern", lora.rank_pattern, |m: &BTreeMap<String, usize>| m.values().all(|n| *n >= 1), "a table of layer names (the ends of dotted names, no regular expressions) and whole numbers of at least 1", "Ranks of single layers, such as { q_proj = 8 }"),
    key!(Lora, "alpha_pattern", lora.alpha_pattern, |m: &BTreeMap<String, f64>| m.values().all(|x| *x > 0.0), "a table of layer names (the ends of dotted names, no regular expressions) and numbers above 0", "Alphas of single layers, such as { q_proj = 16 }"),
    prompt_key!("num_virtual_tokens", num_virtual_tokens, |n: &usize| *n >= 1, COUNT, "Embeddings that prompt tuning puts before every text (20 by default)"),
    prompt_key!("prompt_tuning_init", prompt_tuning_init, |_| true, "`\"SAMPLE_VOCAB\"`, `\"RANDOM\"` or `\"TEXT\"`", "How these start: as tokens of the vocabulary (SAMPLE_VOCAB, the default), RANDOM, or as those of a TEXT"),
    prompt_key!("prompt_tuning_init_text", prompt_tuning_init_text, |s: &Option<String>| s.as_ref().is_none_or(|s| !s.trim().is_empty()), "a text", "The text that they start as"),
    key!(Quantization, "bnb_4bit_quant_type", quantization.bnb_4bit_quant_type, |_| true, "`\"nf4\"`, `\"fp4\"` or `\"none\"`", "4-bit type of the frozen weights under qlora"),
    key!(Quantization, "bnb_4bit_use_double_quant", quantization.bnb_4bit_use_double_quant, |_| true, SWITCH, "Quantize the scales of the 4-bit blocks too"),
    key!(Quantization, "bnb_4bit_compute_dtype", quantization.bnb_4bit_compute_dtype, |_| true, "`\"bfloat16\"` or `\"float32\"`", "Type of activations where the device multiplies bfloat16 fast; else float32"),
    key!(Sft, "num_train_epochs", sft.num_train_epochs, |x: &f64| *x > 0.0, POSITIVE, "Passes over the data"),
    key!(Sft, "max_steps", sft.max_steps, |n: &Option<usize>| *n != Some(0), "-1 or a whole number of at least 1", "Optimizer steps; -1 lets num_train_epochs decide"),
    key!(Sft, "per_device_train_batch_size", sft.per_device_train_batch_size, |n: &usize| *n >= 1, COUNT, "Rows of a micro-batch"),
    key!(Sft, "gradient_accumulation_steps", sft.gradient_accumulation_steps, |n: &usize| *n >= 1, COUNT, "Micro-batches of an optimizer step"),
    key!(Sft, "learning_rate", sft.learning_rate, |x: &f64| *x > 0.0, POSITIVE, "Peak learning rate"),
    key!(Sft, "lr_scheduler_type", sft.lr_scheduler_type, |_| true, "`\"cosine\"`, `\"linear\"`, `\"constant\"` or `\"constant_with_warmup\"`", "Shape of the learning rate: cosine, linear, constant or constant_with_warmup"),
    key!(Sft, "warmup_ratio", sft.warmup_ratio, |x: &f64| (0.0..=1.0).contains(x), "a number from 0 to 1", "Part of the steps in which the rate rises"),
    key!(Sft, "max_grad_norm", sft.max_grad_norm, |x: &f64| *x >= 0.0, NOT_NEGATIVE, "Gradients are clipped to this norm; 0 turns clipping off"),
    key!(Sft, "weight_decay", sft.weight_decay, |x: &f64| *x >= 0.0, NOT_NEGATIVE, "AdamW's weight decay"),
    key!(Sft, "adam_beta1", sft.adam_beta1, |x: &f64| (0.0..1.0).contains(x), PART, "AdamW's decay of the mean"),
    key!(Sft, "adam_beta2", sft.adam_beta2, |x: &f64| (0.0..1.0).contains(x), PART, "AdamW's decay of the variance"),
    key!(Sft, "adam_epsilon", sft.adam_epsilon, |x: &f64| *x > 0.0, POSITIVE, "AdamW's term against division by zero"),
    key!(Sft, "max_length", sft.max_length, |n: &usize| *n >= 2, "a whole number of at least 2", "Tokens of a row; longer examples are cut"),
    key!(Sft, "packing", sft.packing, |_| true, SWITCH, "Fill rows with several examples, which never see each other"),
    key!(Sft, "completion_only_loss", sft.completion_only_loss, |_| true, SWITCH, "Train on the output only, not on the prompt"),
    key!(Sft, "shuffle", sft.shuffle, |_| true, SWITCH, "Shuffle the data in every epoch"),
    key!(Sft, "gradient_checkpointing", sft.gradient_checkpointing, |_| true, SWITCH, "Compute activations twice to save memory"),
    key!(Sft, "neftune_noise_alpha", sft.neftune_noise_alpha, |x: &Option<f64>| x.is_none_or(|x| x > 0.0), POSITIVE, "NEFTune: noise on the embeddings while training; 5 is usual"),
    key!(Sft, "loraplus_lr_ratio", sft.loraplus_lr_ratio, |x: &Option<f64>| x.is_none_or(|x| x > 0.0), POSITIVE, "LoRA+: how many times the learning rate the matrices B have; 16 is usual"),
    key!(Sft, "logging_steps", sft.logging_steps, |n: &usize| *n >= 1, COUNT, "Steps between two lines of progress"),
    key!(Sft, "eval_strategy", sft.eval_strategy, |_| true, WHEN, "When eval_data is evaluated: no, steps or epoch"),
    key!(Sft, "eval_steps", sft.eval_steps, |n: &usize| *n >= 1, COUNT, "Steps between two evaluations"),
    key!(Sft, "save_strategy", sft.save_strategy, |_| true, WHEN, "When a checkpoint is written: no, steps or epoch"),
    key!(Sft, "save_steps", sft.save_steps, |n: &usize| *n >= 1, COUNT, "Steps between two checkpoints"),
    key!(Sft, "save_total_limit", sft.save_total_limit, |n: &usize| *n >= 1, COUNT, "Checkpoints kept; older ones are deleted"),
];
