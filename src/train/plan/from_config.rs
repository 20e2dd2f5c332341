//! A plan's shape and settings from a model's config and a run's.

use candle_core::{DType, Device, Tensor};

use super::{Adapters, Method, Projection, Settings, Shape, Target};
use crate::model::Config;
use crate::ops::qlora_linear;
use crate::ops::weight::Weight;
use crate::train::config::{self, RunConfig};
use crate::train::session::compute_dtype;
use crate::{Error, Result};

impl From<&Config> for Shape {
    fn from(config: &Config) -> Self {
        Self {
            layers: config.num_hidden_layers as u64,
            hidden: config.hidden_size as u64,
            intermediate: config.intermediate_size as u64,
            heads: config.num_attention_heads as u64,
            kv_heads: config.num_key_value_heads as u64,
            head_dim: config.head_dim as u64,
            vocab: config.vocab_size as u64,
            tied: config.tie_word_embeddings,
        }
    }
}

impl Settings {
    /// The settings of a run whose largest micro-batch has `tokens` tokens of data.
    ///
    /// Errors: [`Error::Config`] when `target_modules` names a module that the model lacks.
    pub fn new(run: &RunConfig, model: &Config, tokens: usize) -> Result<Self> {
        let adapters = || -> Result<Adapters> {
            let modules = model.module_shapes();
            let layers = model.num_hidden_layers.max(1) as f64;
            let target = |projection: Projection| {
                let name = projection.module_name();
                let of = modules.iter().filter(|m| m.name.ends_with(name) && run.lora.target_modules.matches(&m.name));
                let ranks: Vec<usize> = of.map(|m| run.lora.rank_for(&m.name)).collect();
                let rank = ranks.iter().sum::<usize>() as f64 / layers;
                (!ranks.is_empty()).then(|| Target { projection, rank, share: ranks.len() as f64 / layers })
            };
            let targets: Vec<Target> = Projection::ALL.into_iter().filter_map(target).collect();
            if targets.is_empty() {
                let hint = "Name modules such as `q_proj`, or \"all-linear\".";
                return Err(Error::config("", "`target_modules` names no module of the model", hint));
            }
            Ok(Adapters { targets, dora: run.lora.use_dora })
        };
        let method = match run.method {
            config::Method::Full => Method::Full,
            config::Method::PromptTuning => {
                Method::PromptTuning { virtual_tokens: run.prompt_tuning.num_virtual_tokens as u64 }
            }
            config::Method::Lora => Method::Lora(adapters()?),
            config::Method::Qlora => {
                Method::Qlora { adapters: adapters()?, double_quant: run.quantization.bnb_4bit_use_double_quant }
            }
        };
        // Each sequence has its own; how many a packed row has is up to the data, so one a row is counted.
        let virtual_tokens = match run.method {
            config::Method::PromptTuning => run.prompt_tuning.num_virtual_tokens * run.sft.per_device_train_batch_size,
            _ => 0,
        };
        Ok(Self {
            method,
            compute_bytes: compute_dtype(run).size_in_bytes() as u64,
            tokens: (tokens + virtual_tokens) as u64,
            gradient_checkpointing: run.sft.gradient_checkpointing,
        })
    }
}

/// Floating-point operations a second that the products of a model of this `shape` reach on `device` in the compute type
/// of `settings`: measured on one, half a second long.
///
/// Errors: the device's.
pub fn measured_speed(shape: &Shape, settings: &Settings, device: &Device) -> Result<f64> {
    const ROWS: usize = 512;
    let (hidden, inner) = (shape.hidden as usize, shape.intermediate as usize);
    let dtype = if settings.compute_bytes == 2 { DType::BF16 } else { DType::F32 };
    let random = |rows, cols| Tensor::randn(0f32, 1.0, (rows, cols), device)?.to_dtype(dtype);
    let (x, w) = (random(ROWS, hidden)?, Weight::Dense(random(inner, hidden)?));
    let product = || -> Result<f32> {
        let (y, _) = qlora_linear::forward(&x, &w, None, None)?;
        Ok(y.get(0)?.max_all()?.to_dtype(DType::F32)?.to_scalar()?)
    };
    product()?;
    let started = std::time::Instant::now();
    let mut products = 0;
    while started.elapsed().as_secs_f64() < 0.5 {
        product()?;
        products += 1;
    }
    Ok((products * 2 * ROWS * hidden * inner) as f64 / started.elapsed().as_secs_f64())
}
