//! One command a file: its arguments, whose comments are the help, and `run`.

pub(crate) mod chat;
pub(crate) mod compare;
pub(crate) mod decide;
pub(crate) mod doctor;
pub(crate) mod eval;
pub(crate) mod fetch;
pub(crate) mod generate;
pub(crate) mod gguf;
pub(crate) mod lab;
pub(crate) mod logits;
pub(crate) mod merge;
pub(crate) mod plan;
pub(crate) mod preview;
pub(crate) mod push;
pub(crate) mod quantize;
pub(crate) mod quick_start;
pub(crate) mod train;
