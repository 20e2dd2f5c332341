//! One example as it stands in a data file.

use super::chat::Message;

/// An instruction, what it is about, and the answer that is to be learnt (Stanford Alpaca's three fields).
///
/// `input` is empty where the file has none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    pub instruction: String,
    pub input: String,
    pub output: String,
    /// What was said before the instruction: a system message, questions and answers. Empty for most data.
    pub turns: Vec<Message>,
}
