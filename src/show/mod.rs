//! Results as something to look at: a curve, a table, a model card. Values in, text out; nothing here prints.

mod card;
mod curve;
mod run_folder;
mod table;

pub use card::{Card, Scores, model_card};
pub use curve::loss_svg;
pub use run_folder::write_results;
pub use table::{Align, Table};
