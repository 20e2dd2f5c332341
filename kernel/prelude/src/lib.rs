//! What the cells of a notebook find loaded.
//!
//! A dylib, so that all cells share one copy of the trainer and of candle; a cell that links them statically would number its
//! tensors from the start again, and gradients would go to the wrong ones. Its first cell, in any kernel on evcxr:
//!
//! ```text
//! :dep ferrotune-prelude = { path = "../../kernel/prelude" }
//! use ferrotune_prelude::*;
//! ```

pub use {candle_core, candle_nn, candle_transformers, ferrotune, plotters, serde_json, tokenizers};

pub use ferrotune::decide::{Arm, Assumptions};
pub use ferrotune::experiments::{Bench, Sweep, Task, approaches, sweep, sweep_scored};
pub use ferrotune::hub::{Hub, PushOptions, Repository, Settings};
pub use ferrotune::lora::{Adapter, LoraConfig, TargetModules};
pub use ferrotune::notebook::{
    Model, Training, answer, compare, evaluate, intervals, load, prepare, read, scores, train,
};
pub use ferrotune::quant::{QuantType, Quantized};
pub use ferrotune::show::{
    self, Bars, Chart, Table, clear_output, html, input, markdown, page, password, png, progress, svg, table,
};
pub use ferrotune::train::config::Strategy;
pub use ferrotune::train::{RunConfig, SftConfig};
pub use ferrotune_loopback_hub::LoopbackHub;
