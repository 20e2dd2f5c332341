//! Text as it is generated.
//!
//! One token can be a part of a character (a Vietnamese letter with its marks is up to three bytes, each perhaps a token
//! of its own), and what a token reads as can depend on its neighbours (a decoder may drop the first space). So text is
//! given out only up to the last whole character, and is always the difference between two decodings that begin at the
//! same token.

use tokenizers::Tokenizer;

use crate::{Error, Result};

/// What a decoder writes for bytes that are not (yet) a character.
const REPLACEMENT: char = '\u{FFFD}';

/// Decodes one sequence's tokens one by one.
///
/// All pieces together, [`TextStream::finish`] included, are the decoding of all tokens at once, as long as the decoder
/// does not take back a whole character because of what follows it (byte fallback does so before bytes that are not UTF-8).
pub struct TextStream<'t> {
    tokenizer: &'t Tokenizer,
    skip_special_tokens: bool,
    /// Tokens of the last piece given out, then those since.
    ids: Vec<u32>,
    /// The text of the first of them, which has been given out.
    given: String,
    /// How many `given` covers.
    given_len: usize,
}

impl<'t> TextStream<'t> {
    /// A stream at the beginning of a text. `skip_special_tokens` leaves out tokens such as the end of the sequence.
    pub fn new(tokenizer: &'t Tokenizer, skip_special_tokens: bool) -> Self {
        Self { tokenizer, skip_special_tokens, ids: vec![], given: String::new(), given_len: 0 }
    }

    /// Takes the next token and returns the text that is certain now, possibly empty.
    ///
    /// Errors: what the tokenizer reports.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        let text = self.decode(&self.ids)?;
        if text.ends_with(REPLACEMENT) {
            return Ok(String::new());
        }
        let Some(piece) = text.strip_prefix(self.given.as_str()) else {
            // The new token changed how the old ones read; wait for it to settle, or for the end.
            return Ok(String::new());
        };
        let piece = piece.to_string();
        if !piece.is_empty() {
            self.ids.drain(..self.given_len);
            self.given = self.decode(&self.ids)?;
            self.given_len = self.ids.len();
        }
        Ok(piece)
    }

    /// The rest: bytes that never became a character read as U+FFFD.
    ///
    /// Errors: what the tokenizer reports.
    pub fn finish(self) -> Result<String> {
        let text = self.decode(&self.ids)?;
        let same = text.chars().zip(self.given.chars()).take_while(|(a, b)| a == b);
        let start: usize = same.map(|(a, _)| a.len_utf8()).sum();
        Ok(text[start..].to_string())
    }

    fn decode(&self, ids: &[u32]) -> Result<String> {
        decode_with(self.tokenizer, ids, self.skip_special_tokens)
    }
}

/// The ids of `text`, with the tokens that the tokenizer puts around a text if `special`.
///
/// Errors: what the tokenizer reports.
pub fn encode(tokenizer: &Tokenizer, text: &str, special: bool) -> Result<Vec<u32>> {
    let encoding = tokenizer.encode(text, special).map_err(|e| {
        let what = format!("the tokenizer cannot encode the prompt ({e})");
        Error::data("", what, "Use the tokenizer that belongs to the model.")
    })?;
    Ok(encoding.get_ids().to_vec())
}

/// The text of `ids`, special tokens left out.
///
/// Errors: what the tokenizer reports.
pub fn decode(tokenizer: &Tokenizer, ids: &[u32]) -> Result<String> {
    decode_with(tokenizer, ids, true)
}

fn decode_with(tokenizer: &Tokenizer, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
    tokenizer.decode(ids, skip_special_tokens).map_err(|error| {
        let hint = "The tokenizer may belong to another model.";
        Error::data("", format!("the tokens {ids:?} could not be decoded: {error}"), hint)
    })
}
