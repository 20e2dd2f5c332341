//! Whether a merged model says what the base with its adapter says.

use std::path::Path;

use candle_core::{D, Tensor};

use super::Pretrained;
use crate::lora::Adapter;
use crate::model::{self, Quantization, streamed};
use crate::{Error, Result};

/// What the models are asked to go on with: prose, another language, code.
const PROMPTS: [&str; 3] = [
    "The capital of France is Paris, and the capital of Japan is",
    "Hà Nội là thủ đô của Việt Nam. Thành phố",
    "def add(a, b):\n    return",
];

/// How far the logits of two models are apart on the same tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// The greatest difference of two logits.
    pub greatest: f32,
    /// The greatest logit, by its size, of the first model: what `greatest` compares with.
    pub largest_logit: f32,
    /// After how many tokens both were looked at.
    pub tokens: usize,
    /// After how many of them both models find the same next token the likeliest.
    pub same_next: usize,
}

/// What [`verify_merged`] finds.
#[derive(Clone, Copy, Debug)]
pub struct Verification {
    /// Between the base with its adapter and the merged model: what rounding the sum to the written type costs.
    pub merged: Difference,
    /// Between the base as the adapter saw it in training, in 4 bits, with its adapter, and the merged model.
    pub trained: Option<Difference>,
}

/// Compares the model in `directory` with the one that it was merged from, on three short prompts, in f32.
///
/// - `trained`: the 4-bit format beside which the adapter was trained; `None` if it was none or is not known
/// - `progress`: hears of each finished block (number done, number in all)
///
/// Errors: those of reading the weights; [`Error::Numeric`] where a logit is not finite.
pub fn verify_merged(
    base: &Pretrained,
    adapter: &Adapter,
    trained: Option<Quantization>,
    directory: &Path,
    mut progress: impl FnMut(usize, usize),
) -> Result<Verification> {
    let merged = model::open(directory)?;
    let sequences = sequences(base)?;
    let passes = 2 + usize::from(trained.is_some());
    let mut pass = |number: usize, pretrained: &Pretrained, adapter, quantization| {
        streamed::logits(pretrained, adapter, quantization, &sequences, |done, all| {
            progress(number * all + done, passes * all);
        })
    };
    let after = pass(0, &merged, None, None)?;
    let before = pass(1, base, Some(adapter), None)?;
    let in_training = match trained {
        Some(quantization) => Some(pass(2, base, Some(adapter), Some(quantization))?),
        None => None,
    };
    let trained = in_training.map(|logits| difference(&logits, &after)).transpose()?;
    Ok(Verification { merged: difference(&before, &after)?, trained })
}

/// The prompts' ids; without a tokenizer, the first ids of the vocabulary.
fn sequences(pretrained: &Pretrained) -> Result<Vec<Vec<u32>>> {
    let Ok(tokenizer) = pretrained.tokenizer() else {
        return Ok(vec![(0..pretrained.config.vocab_size.min(16) as u32).collect()]);
    };
    let encode = |text: &&str| {
        let encoding = tokenizer.encode(*text, true).map_err(|e| {
            let what = format!("the tokenizer failed: {e}");
            Error::data("", what, "Use the tokenizer that belongs to the model.")
        })?;
        Ok(encoding.get_ids().to_vec())
    };
    PROMPTS.iter().map(encode).collect()
}

/// Compares logits, `[S, V]` for each sequence.
pub fn difference(one: &[Tensor], other: &[Tensor]) -> Result<Difference> {
    let mut found = Difference { greatest: 0.0, largest_logit: 0.0, tokens: 0, same_next: 0 };
    for (one, other) in one.iter().zip(other) {
        let apart = (one - other)?.abs()?.max_all()?.to_scalar::<f32>()?;
        let largest = one.abs()?.max_all()?.to_scalar::<f32>()?;
        if !(apart.is_finite() && largest.is_finite()) {
            let what = "a logit is not a finite number".into();
            return Err(Error::Numeric { what, hint: "Write the weights in another type, such as bf16.".into() });
        }
        found.greatest = found.greatest.max(apart);
        found.largest_logit = found.largest_logit.max(largest);
        let (next, other_next) = (one.argmax(D::Minus1)?.to_vec1::<u32>()?, other.argmax(D::Minus1)?.to_vec1::<u32>()?);
        found.tokens += next.len();
        found.same_next += next.iter().zip(&other_next).filter(|(a, b)| a == b).count();
    }
    Ok(found)
}
