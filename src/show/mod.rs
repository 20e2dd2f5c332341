//! Results as things to look at: curves, tables, the model card. Values in, text out; nothing here prints, and only
//! [`write_results`] reads or writes a file.

mod card;
mod markdown;
mod metrics;
mod plot;
mod run_folder;
mod table;

pub use card::{Card, model_card};
pub use metrics::{Summary, summarize};
pub use plot::loss_svg;
pub use run_folder::{Scores, write_results};
pub use table::Table;
