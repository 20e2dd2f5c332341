//! From scores to the next token.
//!
//! The scores pass transformers' logits processors in its order: repetition penalty, then (only where a token is drawn
//! rather than the best one taken) temperature, top-k, top-p. Source: transformers `generation/logits_process.py`.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How to generate, with transformers' names and meanings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GenerationConfig {
    /// Tokens after each prompt, at most.
    pub max_new_tokens: usize,
    /// Scores are divided by it before a token is drawn; 0 takes the best token instead (greedy).
    pub temperature: f64,
    /// A token is drawn among the `top_k` best ones (and those equal to the last of them); 0 means all.
    pub top_k: usize,
    /// A token is drawn among the best ones that together have this probability; 1 means all.
    pub top_p: f64,
    /// The score of each token that already stands in the prompt or after it is divided by this if positive, multiplied
    /// by it if negative; 1 changes nothing.
    pub repetition_penalty: f64,
    /// A completion ends before the first of these.
    pub stop_token_ids: Vec<u32>,
    /// Decides, with the prompt's index, about the random numbers.
    pub seed: u64,
    /// Sequences decoded at once, at most.
    pub batch_size: usize,
}

impl Default for GenerationConfig {
    fn default() -> Self {
        Self {
            max_new_tokens: 256,
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            repetition_penalty: 1.0,
            stop_token_ids: vec![],
            seed: 0,
            batch_size: 8,
        }
    }
}

impl GenerationConfig {
    /// Errors: [`Error::Config`] that names the first setting out of its range.
    pub fn validate(&self) -> Result<()> {
        let checks = [
            ("temperature", self.temperature, self.temperature >= 0.0 && self.temperature.is_finite(), "at least 0"),
            ("top_p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "above 0 and at most 1"),
            (
                "repetition_penalty",
                self.repetition_penalty,
                self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite(),
                "above 0",
            ),
            ("batch_size", self.batch_size as f64, self.batch_size > 0, "at least 1"),
        ];
        match checks.iter().find(|(_, _, ok, _)| !ok) {
            Some((name, value, _, range)) => {
                Err(Error::config("", format!("`{name}` is {value}"), format!("It must be {range}.")))
            }
            None => Ok(()),
        }
    }
}

/// Chooses the tokens of one sequence.
///
/// Its random number for the sequence's n-th token is a pure function of the seed, the prompt's index and n.
#[derive(Clone, Debug)]
pub struct Sampler {
    config: GenerationConfig,
    key: u64,
    drawn: u64,
}

impl Sampler {
    /// A sampler for the prompt with index `prompt`.
    pub fn new(config: &GenerationConfig, prompt: usize) -> Self {
        Self { config: config.clone(), key: mix(mix(config.seed).wrapping_add(prompt as u64)), drawn: 0 }
    }

    /// The next token after `previous` (prompt and completion so far); `scores` are the model's logits, one for each
    /// token of the vocabulary, and are overwritten.
    ///
    /// Errors: [`Error::Numeric`] if a score is NaN or all are negative infinity.
    pub fn next(&mut self, scores: &mut [f32], previous: &[u32]) -> Result<u32> {
        if scores.iter().any(|x| x.is_nan()) {
            return Err(unusable("the model's logits hold NaN"));
        }
        process_scores(scores, previous, &self.config);
        let best = best(scores).ok_or_else(|| unusable("the model's logits leave no token"))?;
        if self.config.temperature == 0.0 {
            return Ok(best as u32);
        }
        self.drawn += 1;
        Ok(draw(scores, scores[best], unit(mix(self.key.wrapping_add(self.drawn)))).unwrap_or(best) as u32)
    }
}

fn unusable(what: &str) -> Error {
    Error::Numeric { what: what.into(), hint: "Check the model and the adapter; one of them is broken.".into() }
}

/// Applies `config` to the scores of one sequence; a token that cannot be drawn gets negative infinity.
///
/// `previous` are the tokens so far, prompt included; an id outside the scores is passed over.
pub fn process_scores(scores: &mut [f32], previous: &[u32], config: &GenerationConfig) {
    let penalty = config.repetition_penalty as f32;
    if penalty != 1.0 {
        let mut seen = previous.to_vec();
        seen.sort_unstable();
        seen.dedup();
        for id in seen {
            if let Some(score) = scores.get_mut(id as usize) {
                *score = if *score < 0.0 { *score * penalty } else { *score / penalty };
            }
        }
    }
    if config.temperature == 0.0 {
        return;
    }
    let temperature = config.temperature as f32;
    if temperature != 1.0 {
        scores.iter_mut().for_each(|score| *score /= temperature);
    }
    if config.top_k > 0 && config.top_k < scores.len() {
        let mut sorted = scores.to_vec();
        let (_, &mut threshold, _) = sorted.select_nth_unstable_by(config.top_k - 1, |a, b| b.total_cmp(a));
        scores.iter_mut().filter(|score| **score < threshold).for_each(|score| *score = f32::NEG_INFINITY);
    }
    if config.top_p < 1.0 {
        top_p(scores, config.top_p);
    }
}

/// Removes tokens from the worst upwards while those removed have together at most the probability `1 - p`; the best one
/// stays.
fn top_p(scores: &mut [f32], p: f64) {
    let Some(best) = best(scores) else { return };
    let max = scores[best];
    let mut order: Vec<usize> = (0..scores.len()).filter(|&i| scores[i] > f32::NEG_INFINITY).collect();
    order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    let weight = |score: f32| f64::from(score - max).exp();
    let total: f64 = order.iter().map(|&i| weight(scores[i])).sum();
    let mut removed = 0.0;
    for &i in &order[..order.len() - 1] {
        removed += weight(scores[i]) / total;
        if removed > 1.0 - p {
            break;
        }
        scores[i] = f32::NEG_INFINITY;
    }
}

/// The first index of the highest score; none if no score is above negative infinity.
fn best(scores: &[f32]) -> Option<usize> {
    let mut best = None;
    let mut max = f32::NEG_INFINITY;
    for (i, &score) in scores.iter().enumerate() {
        if score > max {
            (best, max) = (Some(i), score);
        }
    }
    best
}

/// The index at which the cumulative softmax of `scores` (whose highest is `max`) passes `u`, which lies in [0, 1).
fn draw(scores: &[f32], max: f32, u: f64) -> Option<usize> {
    let weight = |score: f32| f64::from(score - max).exp();
    let total: f64 = scores.iter().map(|&score| weight(score)).sum();
    let mut left = u * total;
    scores.iter().position(|&score| {
        left -= weight(score);
        left < 0.0
    })
}

/// SplitMix64's step and finalizer: 64 well mixed bits from a counter. Source: Steele et al., OOPSLA 2014.
fn mix(counter: u64) -> u64 {
    let mut z = counter.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The upper 53 bits as a number in [0, 1).
fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1u64 << 53) as f64
}
