//! A model in a cell, to look at and to measure.

use candle_core::{DType, Tensor};

use crate::data::{self, Example, Record, Template, TokenizeOptions};
use crate::evaluate::{self, Perplexity};
use crate::lora::{Adapter, LoraConfig};
use crate::model::{self, Decoder, Gradients, LoadOptions, Pass, Pretrained, Quantization};
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
    let pretrained = model::open(&hub::resolve_with(name, &mut super::told())?)?;
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

    /// Puts a new adapter onto the model, in the state in which training starts, and returns it.
    ///
    /// Errors: those of [`Decoder::new_adapter`].
    pub fn adapt(&mut self, config: LoraConfig) -> Result<Adapter> {
        let adapter = self.decoder.new_adapter(config, "", 0)?;
        self.decoder.set_adapter(&adapter, true)?;
        Ok(adapter)
    }

    /// The logits after each token of a text, `[tokens, vocabulary]` in f32.
    ///
    /// Errors: [`Error::Data`] for an empty text; those of the operations.
    pub fn logits(&self, text: &str) -> Result<Tensor> {
        device::on_pool(|| self.decoder.logits(&self.ids(text)?))
    }

    /// The gradient of the mean loss on a text for every trained tensor, by its name in PEFT's files.
    ///
    /// Errors: those of the operations.
    pub fn gradients(&self, text: &str) -> Result<Vec<(String, Tensor)>> {
        let ids = self.ids(text)?;
        let trained = vec![true; ids.len()];
        let batch = self.decoder.batch([(ids.as_slice(), trained.as_slice())], false)?;
        let parameters = self.decoder.parameters();
        let mut gradients = Gradients::new(parameters);
        let scale = 1.0 / batch.trained_tokens().max(1) as f64;
        let pass = Pass { scale, ..Pass::default() };
        device::on_pool(|| self.decoder.loss_and_gradients(&batch, pass, &mut gradients))?;
        let names = parameters.iter().map(|parameter| parameter.name.clone());
        Ok(names.zip(gradients.into_tensors(parameters)?).collect())
    }

    /// Records as tokens, in Alpaca's form; of each the answer and its end are trained.
    ///
    /// Errors: those of [`data::tokenize`].
    pub fn tokenize(&self, records: &[Record]) -> Result<Vec<Example>> {
        let options = TokenizeOptions {
            max_length: self.pretrained.config.max_position_embeddings,
            completion_only_loss: true,
            eos_token_id: self.pretrained.eos_token_id()?,
            bos: self.pretrained.leading_bos(),
        };
        let template = Template::named("alpaca", None)?;
        Ok(data::tokenize(records, &template, self.pretrained.tokenizer()?, &options)?.examples)
    }

    /// How many tokens a text is.
    ///
    /// Errors: [`Error::Data`] where the tokenizer refuses it.
    pub fn count(&self, text: &str) -> Result<usize> {
        Ok(self.ids(text)?.len())
    }

    /// The mean loss of a trained token, in nats, where the examples lie end to end and each sees itself only.
    ///
    /// Errors: those of the operations.
    pub fn loss(&self, examples: &[Example]) -> Result<f64> {
        let batch = self.decoder.batch(examples.iter().map(|e| (e.ids.as_slice(), e.trained.as_slice())), false)?;
        let output = device::on_pool(|| self.decoder.loss(&batch))?;
        Ok(output.loss_sum / output.count.max(1) as f64)
    }

    fn ids(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.pretrained.tokenizer()?.encode(text, false);
        let encoding =
            encoding.map_err(|e| Error::data("", e.to_string(), "Use the tokenizer that belongs to the model."))?;
        Ok(encoding.get_ids().to_vec())
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
