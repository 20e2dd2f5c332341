//! A model in a cell, to look at and to measure.

use candle_core::{DType, Tensor};

use crate::evaluate::{self, Perplexity};
use crate::model::{self, Decoder, LoadOptions, Pretrained, Quantization};
use crate::quant::QuantType;
use crate::{Error, Result, device, hub};

/// Tokens of a window of [`Model::perplexity`].
const WINDOW: usize = 512;

/// A model that computes in f32, so that what a cell shows differs by its weights alone.
pub struct Model {
    pub pretrained: Pretrained,
    pub decoder: Decoder,
}

/// Loads a model; its linear weights in `format` with double quantization, or in f32.
///
/// Errors: those of [`hub::resolve`] and [`model::load`].
pub fn load(name: &str, format: Option<QuantType>) -> Result<Model> {
    let device = device::choose(device::Wanted::Auto)?.device;
    let pretrained = model::open(&hub::resolve_with(name, &mut |note| println!("{note}"))?)?;
    let quantization = format.map(|quant_type| Quantization { quant_type, double: true });
    let options = LoadOptions { quantization, ..LoadOptions::new(device, DType::F32) };
    let decoder = device::on_pool(|| model::load(&pretrained, &options, |_, _| {}))?;
    Ok(Model { pretrained, decoder })
}

impl Model {
    /// The matrix `[out, in]` of a linear module in f32, by transformers' name for it.
    ///
    /// Errors: [`Error::Config`] for a name that no module has.
    pub fn weight(&self, module: &str) -> Result<Tensor> {
        let linear = self.decoder.linear(module).ok_or_else(|| {
            let what = format!("the model has no linear module `{module}`");
            Error::config("", what, "Names are like `model.layers.0.self_attn.q_proj`.")
        })?;
        linear.weight.dequantize(DType::F32)
    }

    /// Every matrix of the blocks in f32, one after the other, row after row.
    ///
    /// Errors: candle's.
    pub fn weights(&self) -> Result<Vec<f32>> {
        let mut all = Vec::new();
        for linear in self.decoder.linears() {
            all.extend(linear.weight.dequantize(DType::F32)?.flatten_all()?.to_vec1::<f32>()?);
        }
        Ok(all)
    }

    /// The number of those weights.
    pub fn weight_count(&self) -> usize {
        self.decoder.linears().map(|linear| linear.weight.in_features() * linear.weight.out_features()).sum()
    }

    /// The bytes that they take.
    pub fn weight_bytes(&self) -> usize {
        self.decoder.linears().map(|linear| linear.weight.size_bytes()).sum()
    }

    /// The perplexity of a text, in windows of 512 tokens.
    ///
    /// Errors: those of [`evaluate::perplexity`].
    pub fn perplexity(&self, text: &str) -> Result<Perplexity> {
        evaluate::perplexity(&self.decoder, &self.pretrained, text, WINDOW)
    }
}
