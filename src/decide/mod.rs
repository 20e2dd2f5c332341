//! The decision framework: prompt, retrieve, or fine-tune?
//!
//! `tree` asks the questions, `cost` counts what each way costs, `rates` what a query of any length takes, `menu` finds
//! rows of a table for a query, `task` is one task that all ways can be tried on, and `arms` tries them.

pub mod arms;
pub mod cost;
pub mod menu;
mod rates;
pub mod task;
pub mod tree;

pub use arms::{Arm, Measured};
pub use cost::{Assumptions, Cost, Workload};
pub use menu::{Menu, Retriever};
pub use rates::Rates;
pub use tree::{Advice, Approach, Step};
