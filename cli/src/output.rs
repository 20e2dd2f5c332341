//! Standard output. A closed pipe is an error like any other here, never a panic.

use std::fmt::Display;
use std::io::{IsTerminal, Write};

use crate::failure::Failure;

/// Writes one line to stdout.
pub(crate) fn line(text: impl Display) -> Result<(), Failure> {
    Ok(writeln!(std::io::stdout(), "{text}")?)
}

/// Writes text to stdout at once, without a line end.
pub(crate) fn piece(text: impl Display) -> Result<(), Failure> {
    let mut out = std::io::stdout();
    write!(out, "{text}")?;
    Ok(out.flush()?)
}

/// Writes a value to stdout as one line of JSON.
pub(crate) fn json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(|e| Failure::Running(format!("could not write JSON: {e}.")))?;
    line(text)
}

/// Tells on stderr what is being done.
pub(crate) fn status(text: impl Display) {
    // Nobody is left to be told when stderr is closed.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Whether stdout is a terminal that shows colours.
pub(crate) fn colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}
