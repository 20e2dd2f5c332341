//! What can go wrong outside of a cell.

use std::path::PathBuf;

/// One paragraph for a person: what, where, what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line, or a file that it names, is wrong.
    #[error("{0}")]
    Input(String),
    #[error("could not write `{path}`: {source}. Make sure that the folder is writable and the disk not full.")]
    Write { path: PathBuf, source: std::io::Error },
    #[error("could not start: {0}. `cargo` and `rustc` have to be on the PATH.")]
    Engine(String),
    /// Cells run all the same, but most of a course's do not.
    #[error(
        "Rust's sources are not in `{0}`. Without them nothing is completed or explained, and a cell keeps a variable \
         only where its type is written out, as in `let text: String = …`, or is as plain as a number's. Other cells \
         fail with \"Couldn't automatically determine type of variable\" or E0521. Run `rustup component add rust-src`, \
         or install your system's package of them, and start the kernel again."
    )]
    Sources(PathBuf),
    /// A cell of a notebook went wrong, or right where it was to go wrong.
    #[error("{0}")]
    Cell(String),
    #[error("interrupted: {0}")]
    Interrupted(String),
    #[error("the sockets of the connection file could not be opened: {0}")]
    Sockets(String),
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// 2 for wrong input, 130 for an interrupt, 1 for what failed while running.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Input(_) => 2,
            Self::Interrupted(_) => 130,
            _ => 1,
        }
    }

    /// For `map_err` where a file is written.
    pub fn write(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Write { path, source }
    }
}
