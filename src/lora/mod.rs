//! LoRA (Hu et al., arXiv:2106.09685): a frozen weight W gets a trained low-rank branch,
//! `y = x·Wᵀ + s·dropout(x)·Aᵀ·Bᵀ` with A `[r, in]`, B `[out, r]` and s = α/r (α/√r with rsLoRA).
//!
//! `config` holds PEFT's settings, `adapter` the matrices of one model, `init` their first values,
//! `peft` the files, `merge` the way back into W, `spectrum` the singular values of what was learned.

pub mod adapter;
pub mod config;
pub mod init;
pub mod merge;
pub mod peft;
mod spectrum;

pub use adapter::{Adapter, LoraLayer, ModuleShape};
pub use config::{Init, LoraConfig, TargetModules};
pub use spectrum::singular_values;
