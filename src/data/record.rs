//! One example as it stands in a data file.

/// An instruction, what it is about, and the answer that is to be learnt (Stanford Alpaca's three fields).
///
/// `input` is empty where the file has none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    pub instruction: String,
    pub input: String,
    pub output: String,
}
