//! What the machine's compiler says of itself.

use std::path::{Path, PathBuf};
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

/// Looks for the sources of Rust's library where rust-analyzer does, by which evcxr finds types and completions.
///
/// Errors: [`Error::Sources`] where they are not; [`Error::Engine`] where `rustc` cannot be run.
pub(crate) fn sources() -> Result<()> {
    let named = std::env::var_os("RUST_SRC_PATH").map(PathBuf::from);
    look_for_sources(Path::new(&ask(&["--print", "sysroot"])?), named.as_deref())
}

fn look_for_sources(sysroot: &Path, named: Option<&Path>) -> Result<()> {
    let own = sysroot.join("lib/rustlib/src/rust/library");
    let is_there = named.is_some_and(|folder| folder.is_absolute() && folder.join("core").is_dir()) || own.is_dir();
    if is_there { Ok(()) } else { Err(Error::Sources(own)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_sources_are_told_of_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let (sysroot, named) = (folder.path().join("toolchain"), folder.path().join("named"));
        let missing = sysroot.join("lib/rustlib/src/rust/library");
        for elsewhere in [None, Some(named.as_path()), Some(Path::new("named"))] {
            let error = look_for_sources(&sysroot, elsewhere).unwrap_err().to_string();
            assert!(error.contains(&missing.display().to_string()), "{error}");
            assert!(error.contains("`rustup component add rust-src`"), "{error}");
        }
        std::fs::create_dir_all(named.join("core")).unwrap();
        look_for_sources(&sysroot, Some(&named)).unwrap();
        std::fs::create_dir_all(&missing).unwrap();
        look_for_sources(&sysroot, None).unwrap();
    }
}
