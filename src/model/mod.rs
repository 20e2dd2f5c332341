//! One decoder for the Llama family, from any of its file formats.
//!
//! `config` and `names` map families and formats to one vocabulary, `weights` reads tensors, `pretrained` opens a
//! checkpoint, `load` builds the `decoder` of `block`s of `linear` modules; `batch` (with a shared `prefix`, after a `soft_prompt`) and `cache` are
//! what it runs on, `parameters` what training changes; `export` writes whole models, `streamed` looks at one that need not fit
//! into memory.

pub mod batch;
pub mod block;
pub mod cache;
pub mod config;
pub mod decoder;
pub mod export;
pub mod linear;
pub mod load;
pub mod names;
pub mod parameters;
pub mod prefix;
pub mod pretrained;
pub mod rope;
pub mod soft_prompt;
pub mod streamed;
pub mod tokenizer;
pub mod weights;

pub use batch::Batch;
pub use cache::SequenceCache;
pub use config::Config;
pub use decoder::{Decoder, Pass};
pub use load::{LoadOptions, Quantization, load};
pub use parameters::{Gradients, Parameters};
pub use pretrained::{Pretrained, open};
