//! A Jupyter kernel for Rust with evcxr as its engine. It knows no trainer: what it loads before the first cell is a prelude
//! that its configuration names.
//!
//! ```text
//! Jupyter ── server/ ── engine/ ── evcxr ── child
//!             (sockets)  │                    │ runs cells
//!                        └──── relay ─────────┘ stdout and stderr, as they are written
//! ```

pub mod cache;
pub mod child;
pub mod cmd;
pub mod config;
pub mod engine;
pub mod error;
pub mod execute;
pub mod prebuild;
mod rustc;
pub mod secrets;
pub mod server;
pub mod warm_up;

pub use error::{Error, Result};
