//! From data files to token ids with loss masks: [`load`], [`Template`], [`tokenize`], [`pack`].
//!
//! ```text
//! file -> Record -> Text (prompt, completion) -> Example (ids, trained) -> rows of examples
//! ```

mod chat;
mod columns;
mod load;
pub mod orders;
mod pack;
mod parquet;
mod preview;
mod prompt;
mod record;
mod template;
mod tokenize;

pub use chat::{ChatTemplate, Message};
pub use load::load;
pub use pack::pack;
pub use preview::{Span, preview};
pub use prompt::PromptFile;
pub use record::Record;
pub use template::{CHAT, PLAIN, Plain, Template, Text};
pub use tokenize::{Example, Report, TokenizeOptions, Tokenized, tokenize};
