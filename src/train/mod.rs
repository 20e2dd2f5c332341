//! Supervised fine-tuning: settings in, an adapter (or a model) and its metrics out.
//!
//! [`Session::prepare`] loads, [`run`] trains and tells an [`Observer`].

pub mod adamw;
pub mod checkpoint;
pub mod checks;
pub mod clip;
pub mod config;
pub mod evaluation;
pub mod loraplus;
pub mod metrics;
pub mod observer;
pub mod plan;
mod run;
pub mod sampler;
pub mod schedule;
pub mod session;

pub use config::{Method, RunConfig, SftConfig};
pub use observer::{Event, Observer};
pub use run::run;
pub use session::{Inputs, Session};
