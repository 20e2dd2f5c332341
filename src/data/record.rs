//! One example as it stands in a data file.

use std::fmt;

use super::chat::Message;

/// An instruction, what it is about, and the answer that is to be learnt (Stanford Alpaca's three fields).
///
/// `input` is empty where the file has none.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Record {
    pub instruction: String,
    pub input: String,
    pub output: String,
    /// What was said before the instruction: a system message, questions and answers. Empty for most data.
    pub turns: Vec<Message>,
}

/// The fields; `turns` only where there are some.
impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { instruction, input, output, turns } = self;
        let mut fields = f.debug_struct("Record");
        fields.field("instruction", instruction).field("input", input).field("output", output);
        if !turns.is_empty() {
            fields.field("turns", turns);
        }
        fields.finish()
    }
}
