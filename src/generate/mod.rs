//! Decoding: token ids in, token ids out.
//!
//! Prompts are decoded together, at most `batch_size` at a time: a sequence that ends leaves the batch at once and the
//! next prompt enters in its place, so that no step is spent on a finished sequence and nothing is padded.

mod sample;
mod stream;

use candle_core::{DType, Tensor};
use serde::Serialize;

pub use sample::{GenerationConfig, Sampler, process_scores};
pub use stream::{TextStream, decode, encode};

use crate::model::{Decoder, SequenceCache};
use crate::{Error, Result};

/// What decoding needs of a model.
pub trait Model {
    /// The keys and values of one sequence so far.
    type Cache;

    /// An empty cache for a sequence of at most `capacity` tokens.
    fn new_cache(&self, capacity: usize) -> Result<Self::Cache>;

    /// Appends to each of B sequences its new tokens (a whole prompt or one token; never none), and returns the logits
    /// after each one's last token, `[B, V]`.
    fn step(&self, caches: &mut [&mut Self::Cache], tokens: &[&[u32]]) -> Result<Tensor>;

    /// How many tokens a sequence can have, its prompt included.
    fn max_positions(&self) -> usize {
        usize::MAX
    }
}

impl Model for Decoder {
    type Cache = SequenceCache;

    fn new_cache(&self, capacity: usize) -> Result<SequenceCache> {
        SequenceCache::new(self, capacity)
    }

    fn step(&self, caches: &mut [&mut SequenceCache], tokens: &[&[u32]]) -> Result<Tensor> {
        Decoder::step(self, caches, tokens)
    }

    fn max_positions(&self) -> usize {
        self.config.max_position_embeddings.saturating_sub(self.virtual_tokens())
    }
}

/// Why a completion ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The model gave one of the stop tokens.
    Stop,
    /// `max_new_tokens` or the model's longest sequence was reached.
    Length,
    /// The caller stopped the generation.
    Cancelled,
}

/// What was generated after one prompt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Completion {
    /// The new tokens, without the prompt and without the stop token.
    pub ids: Vec<u32>,
    pub finish: Finish,
}

/// What happens during [`generate`]. `prompt` counts from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// One new token, in order within its prompt; a stop token is not told.
    Token { prompt: usize, id: u32 },
    /// A prompt's completion is whole.
    Finished { prompt: usize, completion: &'a Completion },
}

/// A sequence in the batch.
struct Active<C> {
    prompt: usize,
    cache: C,
    /// The prompt and what followed.
    ids: Vec<u32>,
    prompt_len: usize,
    /// How many of `ids` the model has seen.
    seen: usize,
    max_len: usize,
    sampler: Sampler,
}

impl<C> Active<C> {
    fn completion(mut self, finish: Finish) -> Completion {
        Completion { ids: self.ids.split_off(self.prompt_len), finish }
    }
}

/// Completes every prompt; the completions are in the prompts' order.
///
/// - `prompts`: token ids, at least one each
/// - `on_event`: is told of each token as soon as it is there
/// - `cancelled`: asked before each step; once it says true, what is unfinished ends as [`Finish::Cancelled`]
///
/// The same call gives the same tokens every time. A completion depends on its own prompt, on the prompt's index (which,
/// with the seed, gives its random numbers) and on nothing of the others in its batch, up to rounding: a model may add
/// numbers in another order for another number of sequences, and two tokens whose scores are nearly equal may then change
/// places.
///
/// Errors: [`Error::Config`] for settings out of range; [`Error::Data`] for a prompt that is empty or does not leave room
/// for a token, before anything is generated; [`Error::Numeric`] if a logit is NaN; what the model reports.
pub fn generate<M: Model>(
    model: &M,
    prompts: &[Vec<u32>],
    config: &GenerationConfig,
    on_event: &mut dyn FnMut(Event),
    cancelled: &dyn Fn() -> bool,
) -> Result<Vec<Completion>> {
    config.validate()?;
    check_prompts(prompts, model.max_positions())?;
    let mut completions: Vec<Option<Completion>> = vec![None; prompts.len()];
    let mut waiting = prompts.iter().enumerate();
    let mut batch: Vec<Active<M::Cache>> = Vec::new();
    if config.max_new_tokens == 0 {
        waiting = [].iter().enumerate();
        for (prompt, slot) in completions.iter_mut().enumerate() {
            on_event(Event::Finished {
                prompt,
                completion: slot.insert(Completion { ids: vec![], finish: Finish::Length }),
            });
        }
    }
    while !cancelled() {
        while batch.len() < config.batch_size
            && let Some((prompt, ids)) = waiting.next()
        {
            let max_len = ids.len().saturating_add(config.max_new_tokens).min(model.max_positions());
            batch.push(Active {
                prompt,
                cache: model.new_cache(max_len)?,
                ids: ids.clone(),
                prompt_len: ids.len(),
                seen: 0,
                max_len,
                sampler: Sampler::new(config, prompt),
            });
        }
        if batch.is_empty() {
            break;
        }
        let logits = step(model, &mut batch)?;
        let mut kept = Vec::with_capacity(batch.len());
        for (mut sequence, mut scores) in batch.into_iter().zip(logits) {
            sequence.seen = sequence.ids.len();
            let id = sequence.sampler.next(&mut scores, &sequence.ids)?;
            let prompt = sequence.prompt;
            let mut finish = Some(Finish::Stop);
            if !config.stop_token_ids.contains(&id) {
                sequence.ids.push(id);
                on_event(Event::Token { prompt, id });
                finish = (sequence.ids.len() == sequence.max_len).then_some(Finish::Length);
            }
            match finish {
                Some(finish) => {
                    let completion = completions[prompt].insert(sequence.completion(finish));
                    on_event(Event::Finished { prompt, completion });
                }
                None => kept.push(sequence),
            }
        }
        batch = kept;
    }
    for sequence in batch {
        let prompt = sequence.prompt;
        completions[prompt] = Some(sequence.completion(Finish::Cancelled));
    }
    let never_begun = || Completion { ids: vec![], finish: Finish::Cancelled };
    Ok(completions.into_iter().map(|completion| completion.unwrap_or_else(never_begun)).collect())
}

fn check_prompts(prompts: &[Vec<u32>], max_positions: usize) -> Result<()> {
    for (i, ids) in prompts.iter().enumerate() {
        if ids.is_empty() {
            let what = format!("prompt {} has no tokens", i + 1);
            return Err(Error::data("", what, "Give at least one token; the beginning-of-sequence token will do."));
        }
        if ids.len() >= max_positions {
            let what = format!("prompt {} has {} tokens, the model takes {max_positions}", i + 1, ids.len());
            return Err(Error::data("", what, "Shorten the prompt so that at least one token can follow."));
        }
    }
    Ok(())
}

/// Runs the model over every sequence's unseen tokens; one row of V scores each.
fn step<M: Model>(model: &M, batch: &mut [Active<M::Cache>]) -> Result<Vec<Vec<f32>>> {
    let (mut caches, tokens): (Vec<_>, Vec<_>) = batch.iter_mut().map(|s| (&mut s.cache, &s.ids[s.seen..])).unzip();
    let logits = model.step(&mut caches, &tokens)?;
    if logits.rank() != 2 || logits.dim(0)? != tokens.len() || logits.dim(1)? == 0 {
        let what = format!("the model gave logits {:?} for {} sequences", logits.dims(), tokens.len());
        return Err(Error::Shape { op: "generate", what });
    }
    Ok(logits.to_dtype(DType::F32)?.to_vec2()?)
}
