//! How a command fails: one paragraph on stderr and an exit code.

use std::io::Write;
use std::process::ExitCode;

/// Why a command did not end well.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The input or the usage is wrong: exit code 2.
    Input(String),
    /// It failed while running: exit code 1.
    Running(String),
    /// It was asked to stop: exit code 130.
    Interrupted(String),
    /// Whoever read the output went away: nothing is said, exit code 0.
    ClosedPipe,
}

impl Failure {
    /// Says what happened on stderr.
    pub(crate) fn report(&self) -> ExitCode {
        let (text, code) = match self {
            Self::Input(text) => (text, 2),
            Self::Running(text) => (text, 1),
            Self::Interrupted(text) => (text, 130),
            Self::ClosedPipe => return ExitCode::SUCCESS,
        };
        paragraph("error", text);
        ExitCode::from(code)
    }
}

impl From<ferrotune::Error> for Failure {
    fn from(error: ferrotune::Error) -> Self {
        let text = error.to_string();
        match error {
            ferrotune::Error::Interrupted { .. } => Self::Interrupted(text),
            _ if error.is_input() => Self::Input(text),
            _ => Self::Running(text),
        }
    }
}

/// Only writing to stdout yields bare I/O errors here.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            Self::ClosedPipe
        } else {
            Self::Running(format!("could not write to the standard output: {error}. Check where it is redirected to."))
        }
    }
}

/// Writes `label: text` to stderr as one paragraph.
pub(crate) fn paragraph(label: &str, text: &str) {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    // Nobody is left to be told when stderr is closed.
    let _ = writeln!(std::io::stderr(), "{label}: {text}");
}

/// Has a panic, which is always a bug, told in one paragraph and end with exit code 1, on whatever thread.
pub(crate) fn report_panics() {
    std::panic::set_hook(Box::new(|info| {
        let what = info.payload_as_str().unwrap_or("a panic without a message");
        let place = info.location().map(|at| format!(" at {}:{}", at.file(), at.line())).unwrap_or_default();
        let what = what.trim_end_matches('.');
        paragraph(
            "error",
            &format!("ferrotune has a bug: {what}{place}. Please report it with the command and this message."),
        );
        std::process::exit(1);
    }));
}
