//! Results as things to look at: curves, tables, the model card, and displays that move while something runs.
//!
//! Curves, tables and cards are values in, text out. Only displays ([`html`] and its like, [`Live`]) print, and only
//! [`write_results`] and [`write_merged_card`] read or write files.

mod card;
mod chart;
mod comparison;
mod display;
mod figure;
mod live;
mod markdown;
mod metrics;
mod plot;
mod run_folder;
mod table;

pub use card::{Card, model_card};
pub use chart::{Bars, Chart};
pub use comparison::{break_evens, comparison, comparison_chart, cost_by_prompt, costs};
pub use display::{
    Bundle, Content, Display, Html, Markdown, Png, Progress, Svg, clear_output, html, input, markdown, page, password,
    png, progress, svg, table,
};
pub use live::Live;
pub use metrics::{Summary, summarize};
pub use plot::loss_svg;
pub use run_folder::{Scores, write_merged_card, write_results};
pub use table::Table;
