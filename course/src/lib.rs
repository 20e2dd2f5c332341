//! Builds the lessons into a book in two languages and into notebooks, and holds them to what their cells print.
//!
//! - `course`: where everything is; `source`: the code of cells; `page`: Markdown with directives
//! - `run`, `record`, `compare`: cells run, what they showed, and whether they still do
//! - `book`, `notebook`: what is made of all that, with `math`, `diagram`, `values`
//! - `check`: what is promised about lessons, without running them
//! - `bless`: records, notebooks and twins brought up to date
//!
//! It knows no trainer: lessons are run by the example `lesson`.

pub mod bless;
pub mod book;
pub mod check;
pub mod compare;
mod course;
pub mod diagram;
mod error;
pub mod math;
pub mod notebook;
mod page;
pub mod record;
pub mod run;
pub mod source;
pub mod values;

pub use course::{Course, Language};
pub use error::{Error, Result};
pub use page::{Page, Part, Section};
