//! What can go wrong, said in one paragraph: what, where, what to do.

use std::path::{Path, PathBuf};

/// An error of the course's programs.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A lesson, a page or a record is not as it has to be.
    #[error("{place}: {what}. {hint}")]
    Lesson { place: String, what: String, hint: String },
    /// A file could not be read or written.
    #[error("`{path}` could not be {done}: {source}.")]
    File { path: PathBuf, done: &'static str, source: std::io::Error },
    /// A program that does part of the work failed.
    #[error("`{program}` {what}")]
    Program { program: String, what: String },
    /// mdBook could not build the book.
    #[error("the book could not be built: {0}")]
    Book(String),
    /// Several findings, each a paragraph of its own.
    #[error("{}", .0.join("\n"))]
    Findings(Vec<String>),
}

/// The result of what the course's programs do.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn lesson(place: impl Into<String>, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Lesson { place: place.into(), what: what.into(), hint: hint.into() }
    }

    pub(crate) fn read(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        |source| Self::File { path: path.into(), done: "read", source }
    }

    pub(crate) fn write(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        |source| Self::File { path: path.into(), done: "written", source }
    }
}
