//! How well a model foresees a text.

use crate::model::{Decoder, Pretrained};
use crate::{Error, Result, device};

/// What a model makes of a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Perplexity {
    /// Tokens that were foreseen.
    pub tokens: usize,
    /// The mean negative log-likelihood of a token, in nats.
    pub loss: f64,
}

impl Perplexity {
    /// exp(loss): among how many equally likely tokens the model chooses, on average.
    pub fn value(self) -> f64 {
        self.loss.exp()
    }
}

/// The perplexity of `text` under the model as it stands.
///
/// The text is cut into windows of `window` tokens, each read by itself; the first token of each is not foreseen. This is what
/// transformers' guide calls the disjoint form, which asks a little more of the model than overlapping windows.
///
/// Errors: [`Error::Data`] for a text of fewer than two tokens; [`Error::Config`] for a window of fewer than two; those of
/// the tokenizer and the operations.
pub fn perplexity(decoder: &Decoder, pretrained: &Pretrained, text: &str, window: usize) -> Result<Perplexity> {
    if window < 2 {
        return Err(Error::config(
            "",
            format!("a window of {window} tokens foresees none"),
            "Use some hundred tokens.",
        ));
    }
    let encoding = pretrained.tokenizer()?.encode(text, false);
    let encoding =
        encoding.map_err(|e| Error::data("", e.to_string(), "Use the tokenizer that belongs to the model."))?;
    let trained = vec![true; window];
    let (mut sum, mut tokens) = (0.0, 0);
    for ids in encoding.get_ids().chunks(window).filter(|ids| ids.len() > 1) {
        let batch = decoder.batch([(ids, &trained[..ids.len()])], false)?;
        let output = device::on_pool(|| decoder.loss(&batch))?;
        sum += output.loss_sum;
        tokens += output.count;
    }
    if tokens == 0 {
        return Err(Error::data("", "the text has fewer than two tokens", "Give a longer text."));
    }
    Ok(Perplexity { tokens, loss: sum / tokens as f64 })
}
