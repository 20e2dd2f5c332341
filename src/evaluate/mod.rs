//! Task scores: how often a model's answer is the expected one, and how sure that rate is; perplexity: how well it foresees
//! a text.

mod interval;
mod perplexity;

use serde::{Deserialize, Serialize};
use tokenizers::Tokenizer;

use crate::data::{Record, Template};
use crate::generate::{self, Event, Finish, GenerationConfig, Model};
use crate::model::{Decoder, Pretrained};
use crate::{Error, Result};

pub use interval::{sign_test, wilson};
pub use perplexity::{Perplexity, perplexity};

/// The scores of one model on one set of examples; rates are from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TaskScores {
    /// The share of answers that equal the expected text (see [`exact_match`]).
    pub exact_match: f64,
    /// The share of answers that parse as JSON (see [`valid_json`]).
    pub valid_json: f64,
    /// How many examples were scored; with none, both rates are 0.
    pub n: usize,
    /// The mean loss over the set's trained tokens, where it was computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_loss: Option<f64>,
}

/// One example's answer and what it scored.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scored {
    /// The example's index in the set, from 0.
    pub index: usize,
    pub expected: String,
    pub answer: String,
    pub exact_match: bool,
    pub valid_json: bool,
    /// Why the answer ended; `length` often means that the model did not learn to stop.
    pub finish: Finish,
}

/// The scores of a set and the answers they come from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    #[serde(flatten)]
    pub scores: TaskScores,
    /// In the set's order; after an interruption, only those that were finished.
    pub examples: Vec<Scored>,
    /// Whether it was stopped before its end.
    pub interrupted: bool,
}

impl Evaluation {
    /// The scores of `examples`.
    pub fn new(examples: Vec<Scored>, interrupted: bool) -> Self {
        let rate = |hit: fn(&Scored) -> bool| {
            examples.iter().filter(|example| hit(example)).count() as f64 / examples.len().max(1) as f64
        };
        let scores = TaskScores {
            exact_match: rate(|example| example.exact_match),
            valid_json: rate(|example| example.valid_json),
            n: examples.len(),
            eval_loss: None,
        };
        Self { scores, examples, interrupted }
    }

    /// The examples whose answer is not the expected one.
    pub fn failures(&self) -> impl Iterator<Item = &Scored> {
        self.examples.iter().filter(|example| !example.exact_match)
    }
}

/// Whether `answer` is `expected`, white space at both ends left out of account. Case, accents, inner white space and the
/// order of JSON keys count.
pub fn exact_match(expected: &str, answer: &str) -> bool {
    expected.trim() == answer.trim()
}

/// Whether `answer`, white space at both ends left out, is one JSON value (RFC 8259) and nothing else: no words around
/// it and no code fence.
pub fn valid_json(answer: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(answer).is_ok()
}

/// Scores one answer.
pub fn score(index: usize, expected: &str, answer: &str, finish: Finish) -> Scored {
    Scored {
        index,
        expected: expected.into(),
        answer: answer.into(),
        exact_match: exact_match(expected, answer),
        valid_json: valid_json(answer),
        finish,
    }
}

/// Lets `model` answer every prompt and scores the answers.
///
/// - `prompts`, `expected`: token ids and the text that should follow, one each for every example
/// - `on_progress`: is told how many are finished, out of how many
/// - `cancelled`: once it says true, what is finished is scored and returned with `interrupted` set
///
/// Errors: [`Error::Shape`] if there are not as many expected texts as prompts; those of [`generate::generate`].
pub fn evaluate<M: Model>(
    model: &M,
    tokenizer: &Tokenizer,
    prompts: &[Vec<u32>],
    expected: &[String],
    config: &GenerationConfig,
    on_progress: &mut dyn FnMut(usize, usize),
    cancelled: &dyn Fn() -> bool,
) -> Result<Evaluation> {
    if prompts.len() != expected.len() {
        let what = format!("{} prompts, {} expected texts", prompts.len(), expected.len());
        return Err(Error::Shape { op: "evaluate", what });
    }
    let mut done = 0;
    let mut on_event = |event: Event| {
        if let Event::Finished { .. } = event {
            done += 1;
            on_progress(done, prompts.len());
        }
    };
    let completions = generate::generate(model, prompts, config, &mut on_event, cancelled)?;
    let mut examples = Vec::with_capacity(completions.len());
    let mut interrupted = false;
    for (index, completion) in completions.iter().enumerate() {
        if completion.finish == Finish::Cancelled {
            interrupted = true;
            continue;
        }
        let answer = generate::decode(tokenizer, &completion.ids)?;
        examples.push(score(index, &expected[index], &answer, completion.finish));
    }
    Ok(Evaluation::new(examples, interrupted))
}

/// How answers are compared: greedily decoded, in batches.
pub fn greedy(pretrained: &Pretrained, max_new_tokens: usize, batch_size: usize) -> GenerationConfig {
    GenerationConfig {
        max_new_tokens,
        batch_size,
        stop_token_ids: pretrained.eos_token_ids.clone(),
        ..GenerationConfig::default()
    }
}

/// [`evaluate`] on records: each one's prompt is asked, and its output expected.
pub fn answers(
    decoder: &Decoder,
    pretrained: &Pretrained,
    template: &Template,
    records: &[Record],
    config: &GenerationConfig,
    on_progress: &mut dyn FnMut(usize, usize),
    cancelled: &dyn Fn() -> bool,
) -> Result<Evaluation> {
    let tokenizer = pretrained.tokenizer()?;
    let ids = |record| generate::encode(tokenizer, &template.prompt(record)?, template.wants_special_tokens());
    let prompts = records.iter().map(ids).collect::<Result<Vec<_>>>()?;
    let expected: Vec<String> = records.iter().map(|r| r.output.clone()).collect();
    evaluate(decoder, tokenizer, &prompts, &expected, config, on_progress, cancelled)
}
