//! A toolchain like the machine's, in which this program stands for cargo.
//!
//! rust-analyzer asks cargo for the packages that cells depend on. For a prelude that is prebuilt the answer is known, and
//! cargo itself is not told of the prelude at all: it would look at each of its packages anew for every cell. Whatever else
//! cargo is asked goes on to the machine's.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{METADATA, Slot, root};
use crate::{Error, Result, rustc};

/// The machine's own cargo.
const CARGO: &str = "FERROTUNE_KERNEL_CARGO";
/// What evcxr calls the package by which it tries a dependency.
const TRIAL: &str = "evcxr_dummy_validate_dep";

/// The variables by which rustup, evcxr and rust-analyzer find the toolchain. Cells are run without them.
pub(crate) const VARIABLES: [&str; 3] = ["RUSTUP_TOOLCHAIN", "CARGO", CARGO];

/// Makes the toolchain, and returns the values of [`VARIABLES`].
///
/// Errors: [`Error::Engine`] where there is no Rust; [`Error::Write`].
pub(super) fn set_up() -> Result<[PathBuf; 3]> {
    let sysroot = PathBuf::from(rustc::ask(&["--print", "sysroot"])?);
    let on_path = |name: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file())
    };
    let tool =
        |name: &str| Some(sysroot.join("bin").join(name)).filter(|path| path.is_file()).or_else(|| on_path(name));
    let missing = |name: &str| Error::Engine(format!("there is no `{name}` on the PATH"));
    let cargo = tool("cargo").ok_or_else(|| missing("cargo"))?;
    let compiler = tool("rustc").ok_or_else(|| missing("rustc"))?;

    let name = sysroot.file_name().map_or_else(|| "toolchain".into(), |name| name.to_string_lossy().into_owned());
    let folder = root()?.join("toolchains").join(name);
    std::fs::create_dir_all(folder.join("bin")).map_err(Error::write(&folder))?;
    for (link, to) in
        [("bin/cargo", &std::env::current_exe()?), ("bin/rustc", &compiler), ("lib", &sysroot.join("lib"))]
    {
        let link = folder.join(link);
        if std::fs::read_link(&link).ok().as_ref() != Some(to) {
            // Whole at once: another kernel may be using it.
            let new = link.with_extension(std::process::id().to_string());
            let made = std::os::unix::fs::symlink(to, &new).and_then(|()| std::fs::rename(&new, &link));
            made.map_err(Error::write(&link))?;
        }
    }
    let stand_in = folder.join("bin/cargo");
    Ok([folder, stand_in, cargo])
}

/// Where this program was called by the name of cargo, does what cargo is to do; returns only if it was not, or with the
/// error that kept it from it.
pub fn stand_in() -> Option<std::io::Error> {
    let mut arguments = std::env::args_os();
    let name = arguments.next()?;
    if Path::new(&name).file_name()? != "cargo" {
        return None;
    }
    let (cargo, slot) = (PathBuf::from(std::env::var_os(CARGO)?), PathBuf::from(std::env::var_os(Slot::VARIABLE)?));
    let arguments: Vec<OsString> = arguments.collect();
    if let Some(answer) = answer(&arguments, &slot) {
        let mut out = std::io::stdout().lock();
        match out.write_all(answer.as_bytes()).and_then(|()| out.flush()) {
            Ok(()) => std::process::exit(0),
            Err(error) => return Some(error),
        }
    }
    let mut command = Command::new(cargo);
    if let Some(folder) = trial(&arguments, &slot) {
        command.current_dir(folder);
    }
    Some(command.args(arguments).exec())
}

/// What is known of the packages of a slot with a prebuilt prelude.
fn answer(arguments: &[OsString], slot: &Path) -> Option<String> {
    let asked = arguments.first()? == "metadata" && !arguments.iter().any(|a| a == "--no-deps");
    let manifest = slot.join("Cargo.toml");
    if !asked || !arguments.iter().any(|a| *a == *manifest) {
        return None;
    }
    std::fs::read_to_string(slot.join(METADATA)).ok()
}

/// A folder to try a dependency in, where evcxr would do it in the slot: the versions that the slot has chosen would be
/// chosen anew, and newer ones compiled.
fn trial(arguments: &[OsString], slot: &Path) -> Option<PathBuf> {
    if arguments.first()? != "metadata" || std::env::current_dir().ok()? != slot {
        return None;
    }
    let manifest = std::fs::read_to_string(slot.join("Cargo.toml")).ok()?;
    let folder = slot.join("trial");
    if !manifest.contains(TRIAL) || std::fs::create_dir_all(&folder).is_err() {
        return None;
    }
    std::fs::write(folder.join("Cargo.toml"), manifest).ok()?;
    let _ = std::fs::copy(slot.join("Cargo.lock"), folder.join("Cargo.lock"));
    Some(folder)
}
