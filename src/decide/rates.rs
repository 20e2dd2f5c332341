//! How fast a machine reads prompts and writes answers, from which follows what a query of any length costs.

use std::path::Path;
use std::time::Instant;

use candle_core::Device;
use serde::{Deserialize, Serialize};

use super::arms;
use super::task::PROMPT;
use crate::Result;
use crate::generate::{self, GenerationConfig};

/// Tokens of the prompt that is timed, and of the answer.
const READ: usize = 512;
const WRITTEN: usize = 64;

/// Tokens a second, one query at a time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// Tokens of a prompt that are read in a second.
    pub prompt_tokens_per_second: f64,
    /// Tokens of an answer that are written in a second.
    pub answer_tokens_per_second: f64,
}

impl Rates {
    /// Times the base model as the approaches load it (4 bits, bf16): a prompt of 512 tokens, and 64 tokens after it.
    ///
    /// Errors: those of [`model::load`](crate::model::load) and [`generate::generate`].
    pub fn measure(model: &Path, device: &Device) -> Result<Self> {
        let (pretrained, decoder) = arms::load_base(model, device)?;
        let text = generate::encode(pretrained.tokenizer()?, PROMPT, false)?;
        let prompt: Vec<u32> = text.into_iter().cycle().take(READ).collect();
        let time = |max_new_tokens: usize| -> Result<f64> {
            // Nothing stops it early: lengths are what is compared.
            let config = GenerationConfig { max_new_tokens, batch_size: 1, ..GenerationConfig::default() };
            let started = Instant::now();
            generate::generate(&decoder, std::slice::from_ref(&prompt), &config, &mut |_| {}, &|| false)?;
            Ok(started.elapsed().as_secs_f64())
        };
        // The first one also builds what later ones find.
        time(1)?;
        let read = time(1)?;
        let written = time(1 + WRITTEN)? - read;
        Ok(Self {
            prompt_tokens_per_second: READ as f64 / read,
            answer_tokens_per_second: WRITTEN as f64 / written.max(f64::EPSILON),
        })
    }

    /// Seconds for a query whose prompt and answer have so many tokens, and for which something is looked up first. That
    /// attention takes longer the more stands before a token is left out: it is little for a small model's prompts.
    ///
    /// ```
    /// let rates = ferrotune::decide::Rates { prompt_tokens_per_second: 1000.0, answer_tokens_per_second: 100.0 };
    /// assert_eq!(rates.seconds(500.0, 30.0, 0.2), 1.0);
    /// ```
    pub fn seconds(&self, prompt_tokens: f64, answer_tokens: f64, retrieval_seconds: f64) -> f64 {
        prompt_tokens / self.prompt_tokens_per_second
            + answer_tokens / self.answer_tokens_per_second
            + retrieval_seconds
    }
}
