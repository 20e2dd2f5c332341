//! QLoRA fine-tuning of Llama-family models in the ecosystem's own file formats.
//!
//! Modules are listed from the bottom up; a module uses only what stands above it in this list.

pub mod error;

pub mod files;

pub mod interrupt;

pub mod device;

pub mod quant;

pub mod ops;

pub mod lora;

pub mod prompt_tuning;

pub mod model;

pub mod data;

pub mod train;

pub mod generate;

pub mod evaluate;

pub mod decide;

pub mod hub;

pub mod show;

pub mod notebook;

pub mod experiments;

pub use candle_core;
pub use error::{Error, Result};
