//! The Rust of this machine, which compiles cells.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::Failure;

/// Looks for Rust, and for the sources of its library: completion and the types of variables in cells come from them.
///
/// Errors: what is missing, what does not work without it, and what to do.
pub(crate) fn look() -> Result<(), Failure> {
    let output = Command::new("rustc").args(["--print", "sysroot"]).output();
    let Some(output) = output.ok().filter(|output| output.status.success()) else {
        return Err(Failure::Running("`rustc` could not be run. Install Rust, and put it on the PATH.".into()));
    };
    let named = std::env::var_os("RUST_SRC_PATH").map(PathBuf::from);
    look_for_sources(Path::new(String::from_utf8_lossy(&output.stdout).trim()), named.as_deref())
}

/// In the folders that rust-analyzer, which the kernel asks, takes them from.
fn look_for_sources(sysroot: &Path, named: Option<&Path>) -> Result<(), Failure> {
    let own = sysroot.join("lib/rustlib/src/rust/library");
    if own.is_dir() || named.is_some_and(|folder| folder.is_absolute() && folder.join("core").is_dir()) {
        return Ok(());
    }
    let what = format!("Rust's sources are not in `{}`", own.display());
    Err(Failure::Running(format!(
        "{what}. Without them notebooks complete nothing, and most variables do not live on from cell to cell. Run \
         `rustup component add rust-src`, or install your system's package of them."
    )))
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
            let Err(Failure::Running(text)) = look_for_sources(&sysroot, elsewhere) else { panic!("{elsewhere:?}") };
            assert!(text.contains(&missing.display().to_string()), "{text}");
            assert!(text.contains("`rustup component add rust-src`"), "{text}");
        }
        std::fs::create_dir_all(named.join("core")).unwrap();
        look_for_sources(&sysroot, Some(&named)).unwrap();
        std::fs::create_dir_all(&missing).unwrap();
        look_for_sources(&sysroot, None).unwrap();
    }
}
