//! Experiments that a cell makes in one line: a question, its arms, and what they allow to be said.
//!
//! One experiment is one file. Each returns a [`Report`] with a table, a picture and [`Claim`]s, each with the verdict
//! that the numbers give it. Most arms are trainings that take a minute, so they are kept on record and one at a time is
//! run live; see [`Bench`].
//!
//! ```no_run
//! use ferrotune::experiments::{Bench, learning_rate};
//!
//! let bench = Bench::course("../../lessons/records/arms/pitfalls.json");
//! let report = learning_rate(&bench, "rate 0.0015, seed 0")?;
//! println!("{}", report.claims().to_text());
//! # Ok::<(), ferrotune::Error>(())
//! ```

mod approaches;
mod bench;
mod data_quality;
mod forgetting;
mod learning_rate;
mod loss_on_prompt;
mod methods;
mod record;
mod report;
mod sweep;
mod verdict;
mod wrong_template;

pub use approaches::{Task, approaches, query_rates};
pub use bench::{Bench, Judge, Trial};
pub use data_quality::data_quality;
pub use forgetting::forgetting;
pub use learning_rate::learning_rate;
pub use loss_on_prompt::loss_on_prompt;
pub use methods::{methods, rates};
pub use report::{Picture, Report};
pub use sweep::{Arm, Group, Sweep, sweep, sweep_scored};
pub use verdict::{Claim, Verdict};
pub use wrong_template::wrong_template;
