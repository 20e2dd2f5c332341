//! What the machine's compiler says of itself.

use std::process::Command;
use std::sync::LazyLock;

use crate::{Error, Result};

/// What `rustc` answers to `arguments`, trimmed.
///
/// Errors: [`Error::Engine`] where it cannot be run.
pub(crate) fn ask(arguments: &[&str]) -> Result<String> {
    let output = Command::new("rustc").args(arguments).output();
    let output = output.map_err(|e| Error::Engine(format!("`rustc` could not be run: {e}")))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// What it is: a line of `key: value` for each property; empty where it cannot be run.
pub(crate) static VERSION: LazyLock<String> = LazyLock::new(|| ask(&["-vV"]).unwrap_or_default());

/// A property of [`VERSION`].
pub(crate) fn property(key: &str) -> &'static str {
    let value = |line: &'static str| line.strip_prefix(key)?.strip_prefix(": ");
    VERSION.lines().find_map(value).unwrap_or_default()
}
