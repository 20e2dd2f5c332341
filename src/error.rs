//! What can go wrong, and whose fault it is.
//!
//! Each variant renders as one paragraph: what is wrong, where (file, line, key, tensor, both values), and what to do
//! (`hint`: whole sentences, with their full stops).

use std::path::{Path, PathBuf};

/// The result of every fallible function in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the library.
///
/// [`Error::is_input`] tells mistakes in what was given (exit code 2 at the command line) from failures while running (1).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder that was named cannot be read. Likely cause: a misspelt path or missing permission.
    #[error("could not read `{}`: {source}. {hint}", path.display())]
    Read { path: PathBuf, hint: String, source: std::io::Error },

    /// A file cannot be written. Likely cause: no permission, a full disk, or a file where a folder is needed.
    #[error("could not write `{}`: {source}. {hint}", path.display())]
    Write { path: PathBuf, hint: String, source: std::io::Error },

    /// A file is there but its content breaks its format: `place` is a line, key or tensor.
    #[error("`{}`{}: {what}. {hint}", path.display(), comma(place))]
    Format { path: PathBuf, place: String, what: String, hint: String },

    /// A configuration key, flag or argument has a value that cannot be used.
    #[error("{what}{}. {hint}", comma(place))]
    Config { place: String, what: String, hint: String },

    /// Data that parses but cannot be trained on or scored.
    #[error("{what}{}. {hint}", comma(place))]
    Data { place: String, what: String, hint: String },

    /// A tensor is missing, unexpected, or of another shape or type than the model or adapter needs.
    #[error("tensor `{name}` in `{}`: {what}. {hint}", path.display())]
    Tensor { name: String, path: PathBuf, what: String, hint: String },

    /// Two operands do not fit together. Likely cause: a bug in the caller.
    #[error("{op}: {what}")]
    Shape { op: &'static str, what: String },

    /// A number left the range in which training can go on (NaN or infinite loss, gradient or weight).
    #[error("{what}. {hint}")]
    Numeric { what: String, hint: String },

    /// The run was stopped on request; what was finished has been saved where `saved` says.
    #[error("interrupted{}", saved.as_deref().map(|p| format!("; `{}` holds the last finished step", p.display())).unwrap_or_default())]
    Interrupted { saved: Option<PathBuf> },

    /// A program that was started (such as pip) failed.
    #[error("`{program}` failed: {what}. {hint}")]
    Program { program: String, what: String, hint: String },

    /// The Hugging Face Hub refused something, failed, or could not be reached. `status` is its answer's, if there was one;
    /// `given` tells whether the cause is what was asked for (a name, a token) and not the way there.
    #[error("{what}. {hint}")]
    Hub { status: Option<u16>, given: bool, what: String, hint: String },

    /// candle refused an operation. Likely cause: out of device memory, or a bug in the caller.
    #[error("tensor operation failed: {0}")]
    Candle(#[from] candle_core::Error),
}

impl Error {
    /// Whether the cause lies in what was given, before anything ran.
    pub fn is_input(&self) -> bool {
        match self {
            Self::Read { .. } | Self::Format { .. } | Self::Config { .. } | Self::Data { .. } | Self::Tensor { .. } => {
                true
            }
            Self::Hub { given, .. } => *given,
            _ => false,
        }
    }

    /// An unreadable `path`.
    pub fn read(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        let hint = "Check that the path is right and can be read.".into();
        Self::Read { path: path.as_ref().into(), hint, source }
    }

    /// A `path` that should be there and is not; `hint` says what belongs there.
    pub fn absent(path: impl AsRef<Path>, hint: impl Into<String>) -> Self {
        let source = std::io::Error::new(std::io::ErrorKind::NotFound, "it is not there");
        Self::Read { path: path.as_ref().into(), hint: hint.into(), source }
    }

    /// An unwritable `path`.
    pub fn write(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        let hint = "Choose another folder, or free space and set permissions.".into();
        Self::Write { path: path.as_ref().into(), hint, source }
    }

    /// A file that breaks its format at `place` (a line, key or tensor; may be empty).
    pub fn format(
        path: impl AsRef<Path>,
        place: impl Into<String>,
        what: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self::Format { path: path.as_ref().into(), place: place.into(), what: what.into(), hint: hint.into() }
    }

    /// A setting that cannot be used; `place` names where it was set (may be empty).
    pub fn config(place: impl Into<String>, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Config { place: place.into(), what: what.into(), hint: hint.into() }
    }

    /// Data that cannot be used; `place` names the file and the line or row (may be empty).
    pub fn data(place: impl Into<String>, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Data { place: place.into(), what: what.into(), hint: hint.into() }
    }

    /// What the Hub refused; `given` if for what was asked.
    pub fn hub(given: bool, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Hub { status: None, given, what: what.into(), hint: hint.into() }
    }

    /// The same error; one about data also names the file that the data came from.
    pub fn in_file(self, path: &Path) -> Self {
        match self {
            Self::Data { place, what, hint } => {
                let file = format!("`{}`", path.display());
                Self::Data { place: if place.is_empty() { file } else { format!("{file}, {place}") }, what, hint }
            }
            other => other,
        }
    }

    /// A tensor of a file that does not fit.
    pub fn tensor(
        name: impl Into<String>,
        path: impl AsRef<Path>,
        what: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self::Tensor { name: name.into(), path: path.as_ref().into(), what: what.into(), hint: hint.into() }
    }
}

fn comma(place: &str) -> String {
    if place.is_empty() { String::new() } else { format!(", {place}") }
}
