//! From an opened checkpoint to a decoder: names to modules, types, quantization on the way in.

use super::block::{Block, Norm};
use super::config::Config;
use super::decoder::{Decoder, RopeCache};
use super::linear::Linear;
use super::parameters::Parameters;
use super::pretrained::Pretrained;
use super::weights::{self, WeightSource};
use crate::ops::attention::Heads;
use crate::ops::weight::{QuantizedWeight, Weight};
use crate::quant::{QuantType, Quantized};
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};

/// bitsandbytes' block of values that share a scale.
pub const BLOCKSIZE: usize = 64;

/// What the frozen linear weights become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantization {
    pub quant_type: QuantType,
    /// Quantize the scales too.
    pub double: bool,
}

/// How a model is loaded.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    pub device: Device,
    /// The type of activations and of weights that are not quantized.
    pub dtype: DType,
    /// `None` keeps the linear weights in `dtype`. Weights stored in 4 bits stay as they are stored.
    pub quantization: Option<Quantization>,
    /// Make every weight a trained parameter (`method = "full"`); needs `dtype` f32 and no quantization.
    pub train_weights: bool,
}

impl LoadOptions {
    /// Frozen weights in `dtype` on `device`.
    pub fn new(device: Device, dtype: DType) -> Self {
        Self { device, dtype, quantization: None, train_weights: false }
    }

    /// The same with the linear weights in 4 bits.
    pub fn quantized(self, quantization: Quantization) -> Self {
        Self { quantization: Some(quantization), ..self }
    }
}

/// Builds the decoder; `progress` hears of each finished block (number done, number in all).
///
/// Errors: [`Error::Tensor`] for weights that are missing, misshapen or not finite; those of the files.
pub fn load(pretrained: &Pretrained, options: &LoadOptions, mut progress: impl FnMut(usize, usize)) -> Result<Decoder> {
    let config = &pretrained.config;
    let loader = Loader { source: pretrained.weights.as_ref(), options };
    weights::check(loader.source, config)?;
    let embed_tokens = loader.dense("model.embed_tokens.weight")?;
    let lm_head = match config.tie_word_embeddings {
        true => None,
        false => Some(loader.dense("lm_head.weight")?),
    };
    let mut blocks = Vec::with_capacity(config.num_hidden_layers);
    for index in 0..config.num_hidden_layers {
        blocks.push(loader.block(config, index)?);
        progress(index + 1, config.num_hidden_layers);
    }
    let mut decoder = Decoder {
        config: config.clone(),
        embed_tokens,
        embed_id: None,
        blocks,
        norm: loader.norm("model.norm.weight", config)?,
        lm_head,
        head_id: None,
        soft_prompt: None,
        parameters: Parameters::default(),
        rope: RopeCache::default(),
    };
    if options.train_weights {
        train_weights(&mut decoder)?;
    }
    Ok(decoder)
}

/// Registers every weight of `decoder` as trained, under its name in a checkpoint.
fn train_weights(decoder: &mut Decoder) -> Result<()> {
    let mut parameters = Parameters::default();
    decoder.embed_id = Some(parameters.add("model.embed_tokens.weight", &decoder.embed_tokens));
    // A tied head is the embeddings: both gradients go to one place.
    decoder.head_id = match &decoder.lm_head {
        Some(head) => Some(parameters.add("lm_head.weight", head)),
        None => decoder.embed_id,
    };
    for block in &mut decoder.blocks {
        let index = block.index;
        for (name, norm) in block.norms_mut() {
            norm.weight_id = Some(parameters.add(format!("model.layers.{index}.{name}.weight"), &norm.weight));
        }
        for linear in block.linears_mut() {
            let Weight::Dense(weight) = &linear.weight else {
                return Err(Error::config(
                    "`method`",
                    format!("`{}` is stored in 4 bits, which full fine-tuning cannot train", linear.name),
                    "Use a 16-bit model, or `method = \"qlora\"`.",
                ));
            };
            linear.weight_id = Some(parameters.add(format!("{}.weight", linear.name), weight));
        }
    }
    decoder.norm.weight_id = Some(parameters.add("model.norm.weight", &decoder.norm.weight));
    decoder.parameters = parameters;
    Ok(())
}

pub(super) struct Loader<'a> {
    pub(super) source: &'a dyn WeightSource,
    pub(super) options: &'a LoadOptions,
}

impl Loader<'_> {
    pub(super) fn block(&self, config: &Config, index: usize) -> Result<Block> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let q = config.num_attention_heads * config.head_dim;
        let kv = config.num_key_value_heads * config.head_dim;
        let linear = |module: &str, out, input| self.linear(&format!("model.layers.{index}.{module}"), out, input);
        let norm = |name: &str| self.norm(&format!("model.layers.{index}.{name}.weight"), config);
        Ok(Block {
            index,
            heads: Heads {
                n_heads: config.num_attention_heads,
                n_kv_heads: config.num_key_value_heads,
                head_dim: config.head_dim,
            },
            input_layernorm: norm("input_layernorm")?,
            q_proj: linear("self_attn.q_proj", q, hidden)?,
            k_proj: linear("self_attn.k_proj", kv, hidden)?,
            v_proj: linear("self_attn.v_proj", kv, hidden)?,
            o_proj: linear("self_attn.o_proj", hidden, q)?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            gate_proj: linear("mlp.gate_proj", inner, hidden)?,
            up_proj: linear("mlp.up_proj", inner, hidden)?,
            down_proj: linear("mlp.down_proj", hidden, inner)?,
        })
    }

    fn linear(&self, name: &str, out_features: usize, in_features: usize) -> Result<Linear> {
        let key = format!("{name}.weight");
        let shape = [out_features, in_features];
        let weight = match (self.source.quantized(&key)?, self.options.quantization) {
            (Some(stored), _) => {
                weights::check_finite_quantized(&key, self.source.path(), &stored)?;
                Weight::Quantized(QuantizedWeight::new(&stored, &self.options.device)?)
            }
            (None, Some(quantization)) => {
                let tensor = self.checked(&key, &Device::Cpu, DType::F32)?;
                let values = tensor.flatten_all()?.to_vec1::<f32>()?;
                let quantized =
                    Quantized::quantize(&values, shape, quantization.quant_type, BLOCKSIZE, quantization.double)?;
                Weight::Quantized(QuantizedWeight::new(&quantized, &self.options.device)?)
            }
            (None, None) => Weight::Dense(self.dense(&key)?),
        };
        Ok(Linear::new(name.to_string(), weight))
    }

    pub(super) fn norm(&self, key: &str, config: &Config) -> Result<Norm> {
        Ok(Norm { weight: self.dense(key)?, weight_id: None, eps: config.rms_norm_eps })
    }

    fn dense(&self, key: &str) -> Result<Tensor> {
        self.checked(key, &self.options.device, self.options.dtype)
    }

    /// Shapes have been checked for the whole checkpoint; this checks the values.
    fn checked(&self, key: &str, device: &Device, dtype: DType) -> Result<Tensor> {
        let tensor = self.source.tensor(key, DType::F32, &Device::Cpu)?;
        weights::check_finite(key, self.source.path(), &tensor)?;
        Ok(tensor.to_dtype(dtype)?.to_device(device)?)
    }
}
