//! The text of an example as the model sees it, parted into what is trained and what is not.

use tokenizers::Tokenizer;

use super::Example;
use crate::error::{Error, Result};

/// A stretch of text whose tokens are all trained, or all not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    pub text: String,
    pub trained: bool,
}

/// Decodes `example` into spans, special tokens included. The spans one after the other are the whole decoded text.
///
/// One character may be several tokens. Where the mask changes inside of it, the character goes to the later span.
///
/// # Errors
/// [`Error::Data`] where the tokenizer cannot decode the ids.
pub fn preview(example: &Example, tokenizer: &Tokenizer) -> Result<Vec<Span>> {
    let decode = |ids: &[u32]| {
        tokenizer.decode(ids, false).map_err(|e| {
            let what = format!("the tokenizer cannot decode an example: {e}");
            Error::data("", what, "Use the tokenizer that belongs to the model.")
        })
    };
    let whole = decode(&example.ids)?;
    let mut spans = Vec::new();
    let mut done = 0;
    let mut start = 0;
    while start < example.ids.len() {
        let trained = example.trained[start];
        let end = (start..example.ids.len()).find(|i| example.trained[*i] != trained).unwrap_or(example.ids.len());
        let upto =
            if end == example.ids.len() { whole.len() } else { whole_characters(&whole, &example.ids[..end], decode)? };
        if upto > done {
            spans.push(Span { text: whole[done..upto].to_owned(), trained });
            done = upto;
        }
        start = end;
    }
    Ok(spans)
}

/// How much of `whole` the first tokens, `ids`, spell, without a character that is cut in two.
fn whole_characters(whole: &str, ids: &[u32], decode: impl Fn(&[u32]) -> Result<String>) -> Result<usize> {
    for end in (1..=ids.len()).rev() {
        let text = decode(&ids[..end])?;
        if whole.starts_with(&text) {
            return Ok(text.len());
        }
    }
    Ok(0)
}
