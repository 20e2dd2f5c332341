//! From text to token ids, each marked as trained or not.
//!
//! The mask comes from text spans. The whole text is tokenized once, so the ids are those of the whole text; a token
//! belongs to the completion if it ends after the place where the prompt's text ends. Earlier answers of a conversation are
//! parted from what is around them in the same way. A token that holds the last of the
//! prompt and the first of the completion therefore counts as completion: it has to be learnt, and no prompt is trained
//! otherwise. Pad ids play no part: nothing is padded.

use rayon::prelude::*;
use tokenizers::{PostProcessorWrapper, Tokenizer};

use super::{Record, Template};
use crate::error::{Error, Result};

/// How records become token ids.
#[derive(Debug, Clone)]
pub struct TokenizeOptions {
    /// Most tokens of an example; what is longer loses its end.
    pub max_length: usize,
    /// Train the completion only (output and end of sequence), not the prompt.
    pub completion_only_loss: bool,
    /// Ends each example, and is trained.
    pub eos_token_id: u32,
    /// The beginning-of-sequence token, of which an example must not start with two.
    pub bos: Option<u32>,
}

/// One example: token ids, and which of them count in the loss.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// `[T]`.
    pub ids: Vec<u32>,
    /// `[T]`; whether token i is a target that counts. The first never is: nothing comes before it to predict it from.
    pub trained: Vec<bool>,
}

/// What became of the records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Records read.
    pub records: usize,
    /// Examples kept.
    pub examples: usize,
    /// Examples that lost their end to `max_length`, dropped ones included.
    pub truncated: usize,
    /// Tokens that were cut off.
    pub cut_tokens: usize,
    /// Examples left out because no trained token was left.
    pub dropped: usize,
    /// Tokens of the kept examples.
    pub tokens: usize,
    /// Of which trained.
    pub trained_tokens: usize,
    /// Length of the longest kept example.
    pub longest: usize,
}

/// Examples, in the records' order, and the report.
#[derive(Debug, Clone)]
pub struct Tokenized {
    pub examples: Vec<Example>,
    pub report: Report,
}

/// Tokenizes `records` by `template`.
///
/// Special tokens that stand in a record's text are encoded as the tokenizer does it. The end-of-sequence token is added
/// unless the text ends with it already, as chat templates' does.
///
/// # Errors
/// [`Error::Data`] naming the example (from 1, in the order of `records`): the chat template refuses it, the tokenizer
/// fails, or it starts with two beginning-of-sequence tokens; without a name where no example is left.
pub fn tokenize(
    records: &[Record],
    template: &Template,
    tokenizer: &Tokenizer,
    options: &TokenizeOptions,
) -> Result<Tokenized> {
    let tokenizer = with_exact_offsets(tokenizer)?;
    let eos_text = tokenizer.id_to_token(options.eos_token_id).ok_or_else(|| {
        let what = format!("the tokenizer has no token {}, the end of sequence", options.eos_token_id);
        Error::data("", what, "Use the tokenizer that belongs to the model.")
    })?;
    let encoded: Vec<Result<Example>> =
        records.par_iter().map(|record| encode(record, template, &tokenizer, &eos_text, options)).collect();

    let mut report = Report { records: records.len(), ..Report::default() };
    let mut examples = Vec::with_capacity(records.len());
    for (i, example) in encoded.into_iter().enumerate() {
        let mut example = example.map_err(|e| at_example(e, i + 1))?;
        let cut = example.ids.len().saturating_sub(options.max_length);
        if cut > 0 {
            report.truncated += 1;
            report.cut_tokens += cut;
            example.ids.truncate(options.max_length);
            example.trained.truncate(options.max_length);
        }
        let trained = example.trained.iter().filter(|t| **t).count();
        if trained == 0 {
            report.dropped += 1;
            continue;
        }
        report.examples += 1;
        report.tokens += example.ids.len();
        report.trained_tokens += trained;
        report.longest = report.longest.max(example.ids.len());
        examples.push(example);
    }
    if examples.is_empty() {
        let what = format!("none of the {} examples has a trained token within `max_length`", records.len());
        let hint = format!("`max_length` is {}; raise it above the length of the prompts.", options.max_length);
        return Err(Error::data("", what, hint));
    }
    Ok(Tokenized { examples, report })
}

impl Tokenized {
    /// Checks what no training run can do without: ids within the model's vocabulary, and a trained end of sequence.
    ///
    /// # Errors
    /// [`Error::Data`] with the id and the vocabulary's size, or telling that the model would never learn to stop.
    pub fn check(&self, vocab_size: usize, eos_token_id: u32) -> Result<()> {
        let ids = || self.examples.iter().flat_map(|e| e.ids.iter().zip(&e.trained));
        if let Some((id, _)) = ids().max().filter(|(id, _)| **id as usize >= vocab_size) {
            let what = format!("token id {id} is outside the model's vocabulary of {vocab_size}");
            return Err(Error::data("", what, "Use the tokenizer that belongs to the model."));
        }
        if !ids().any(|(id, trained)| *trained && *id == eos_token_id) {
            let what = "no example has its end-of-sequence token trained, so the model would not learn to stop";
            return Err(Error::data("", what, "Raise `max_length` so that some examples keep their end."));
        }
        Ok(())
    }
}

fn encode(
    record: &Record,
    template: &Template,
    tokenizer: &Tokenizer,
    eos_text: &str,
    options: &TokenizeOptions,
) -> Result<Example> {
    let text = template.text(record)?;
    let boundary = text.prompt.len();
    let whole = format!("{}{}", text.prompt, text.completion);
    let encoding = tokenizer.encode(whole.as_str(), template.wants_special_tokens()).map_err(|e| {
        Error::data("", format!("the tokenizer failed: {e}"), "Use the tokenizer that belongs to the model.")
    })?;
    let mut ids = encoding.get_ids().to_vec();
    if let (Some(bos), [first, second, ..]) = (options.bos, ids.as_slice())
        && (*first, *second) == (bos, bos)
    {
        let name = tokenizer.id_to_token(bos).unwrap_or_default();
        let what = format!("the text starts with two beginning-of-sequence tokens (`{name}`)");
        return Err(Error::data("", what, "Take the token out of the data; the tokenizer adds it."));
    }
    // Tokens that the tokenizer adds have no span, (0, 0): they go with what came before.
    let mut in_completion = false;
    let mut trained: Vec<bool> = encoding
        .get_offsets()
        .iter()
        .map(|(start, end)| {
            in_completion |= *end > boundary;
            let in_answer = text.answers.iter().any(|answer| *end > answer.start && *start < answer.end);
            in_completion || in_answer || !options.completion_only_loss
        })
        .collect();
    let ended = ids.last() == Some(&options.eos_token_id) || whole[boundary..].trim_end().ends_with(eos_text);
    if !ended {
        ids.push(options.eos_token_id);
        trained.push(true);
    } else if text.completion.is_empty() {
        // An empty output whose end the tokenizer itself adds: that end is the completion.
        trained.pop();
        trained.push(true);
    }
    if let Some(first) = trained.first_mut() {
        *first = false;
    }
    Ok(Example { ids, trained })
}

/// `tokenizer` without padding and cutting of its own, and with spans that keep their blanks: byte-level tokenizers trim
/// them by default, and a span that lost its blanks no longer tells whether the token reaches into the completion.
fn with_exact_offsets(tokenizer: &Tokenizer) -> Result<Tokenizer> {
    let mut tokenizer = tokenizer.clone();
    let failed = |e: &dyn std::fmt::Display| {
        let what = format!("the tokenizer cannot be set up: {e}");
        Error::data("", what, "Use the tokenizer that belongs to the model.")
    };
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).map_err(|e| failed(&e))?;
    let exact = |processor: &PostProcessorWrapper| -> serde_json::Result<PostProcessorWrapper> {
        let mut value = serde_json::to_value(processor)?;
        keep_blanks(&mut value);
        serde_json::from_value(value)
    };
    if let Some(processor) = tokenizer.get_post_processor() {
        let processor = exact(processor).map_err(|e| failed(&e))?;
        tokenizer.with_post_processor(Some(processor));
    }
    Ok(tokenizer)
}

fn keep_blanks(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(map) => {
            for (key, value) in map {
                if key == "trim_offsets" {
                    *value = false.into();
                } else {
                    keep_blanks(value);
                }
            }
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(keep_blanks),
        _ => {}
    }
}

fn at_example(error: Error, number: usize) -> Error {
    match error {
        Error::Data { what, hint, .. } => Error::data(format!("example {number}"), what, hint),
        other => other,
    }
}
