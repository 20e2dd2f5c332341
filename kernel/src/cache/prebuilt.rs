//! A prelude that was compiled before: once for each toolchain and configuration, and again when its sources change.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use super::clone::clone;
use super::{PROFILE, root};
use crate::config::Prelude;
use crate::{Error, Result};

/// What cargo built, by its name in a slot.
const TARGET: &str = "target";
const LOCK: &str = "Cargo.lock";
/// The prelude's source files as they were: a line each of time, length and path.
const SOURCES: &str = "sources";

/// The place of one prelude.
#[derive(Debug)]
pub struct Prebuilt {
    folder: PathBuf,
    prelude: PathBuf,
}

/// The right to compile a prelude; nobody else does until it is dropped.
#[derive(Debug)]
pub struct Build<'a> {
    prebuilt: &'a Prebuilt,
    _lock: File,
}

impl Prebuilt {
    /// Where `prelude` is, or will be, for the toolchain in use.
    ///
    /// Errors: [`Error::Engine`] where `rustc` cannot be run; [`Error::Write`].
    pub fn of(prelude: &Prelude) -> Result<Self> {
        let output = Command::new("rustc").arg("-vV").output();
        let toolchain = output.map_err(|e| Error::Engine(format!("`rustc` could not be run: {e}")))?.stdout;
        // A hash that changes with this program's version is as good as one that does not.
        let mut hasher = DefaultHasher::new();
        (toolchain, env!("CARGO_PKG_VERSION"), PROFILE, &prelude.name, &prelude.path, &prelude.uses).hash(&mut hasher);
        let all = root()?.join("prebuilt");
        std::fs::create_dir_all(&all).map_err(Error::write(&all))?;
        let folder = all.join(format!("{}-{:016x}", prelude.name, hasher.finish()));
        Ok(Self { folder, prelude: prelude.path.clone() })
    }

    /// Makes `slot` begin with what is here. Then nothing is left to be built, or the right to build the rest is returned.
    /// Waits where another kernel is building; `on_wait` is called first.
    ///
    /// Errors: [`Error::Write`].
    pub fn begin(&self, slot: &Path, on_wait: impl FnOnce()) -> Result<Option<Build<'_>>> {
        let path = self.folder.with_extension("lock");
        let lock = File::create(&path).map_err(Error::write(&path))?;
        if lock.try_lock().is_err() {
            on_wait();
            lock.lock().map_err(Error::write(&path))?;
        }
        let fresh = self.is_fresh();
        if self.folder.exists() {
            clone(&self.folder.join(TARGET), &slot.join(TARGET)).map_err(Error::write(slot))?;
        }
        Ok((!fresh).then_some(Build { prebuilt: self, _lock: lock }))
    }

    /// Makes cargo choose the versions of the prelude's dependencies that were chosen before: those of what is prebuilt, else
    /// those of the prelude's own workspace. Newer ones would have to be compiled.
    ///
    /// Errors: [`Error::Write`].
    pub fn lock_versions(&self, slot: &Path) -> Result<()> {
        let of_workspace = || self.prelude.ancestors().map(|folder| folder.join(LOCK)).find(|path| path.exists());
        let fresh = Some(self.folder.join(LOCK)).filter(|_| self.is_fresh());
        if let Some(path) = fresh.or_else(of_workspace) {
            std::fs::copy(&path, slot.join(LOCK)).map_err(Error::write(slot))?;
        }
        Ok(())
    }

    /// Whether it is there and no source has changed since.
    pub fn is_fresh(&self) -> bool {
        let Ok(sources) = std::fs::read_to_string(self.folder.join(SOURCES)) else { return false };
        let unchanged = |line: &str| {
            let path = line.splitn(3, ' ').nth(2);
            path.and_then(|path| state(Path::new(path))).is_some_and(|now| now == line)
        };
        sources.lines().all(unchanged)
    }
}

impl Build<'_> {
    /// Keeps what was built in `slot`.
    ///
    /// Errors: [`Error::Write`].
    pub fn publish(self, slot: &Path) -> Result<()> {
        let folder = &self.prebuilt.folder;
        let new = folder.with_extension("new");
        let write = || {
            let _ = std::fs::remove_dir_all(&new);
            clone(&slot.join(TARGET), &new.join(TARGET))?;
            std::fs::copy(slot.join(LOCK), new.join(LOCK))?;
            let sources = sources(&slot.join(TARGET), &self.prebuilt.prelude);
            let lines = sources.iter().filter_map(|path| state(path)).map(|line| line + "\n");
            std::fs::write(new.join(SOURCES), lines.collect::<String>())?;
            if folder.exists() {
                std::fs::remove_dir_all(folder)?;
            }
            std::fs::rename(&new, folder)
        };
        write().map_err(Error::write(folder))
    }
}

/// Time, length and path of a file.
fn state(path: &Path) -> Option<String> {
    let metadata = path.metadata().ok()?;
    let since = metadata.modified().ok()?.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Some(format!("{} {} {}", since.as_nanos(), metadata.len(), path.display()))
}

/// The source files of the crates that lie outside of cargo's own folders, by what the compiler wrote down, and their
/// manifests.
fn sources(target: &Path, prelude: &Path) -> Vec<PathBuf> {
    let mut found = vec![prelude.join("Cargo.toml")];
    let mut folders = vec![target.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "d") {
                let text = std::fs::read_to_string(&path).unwrap_or_default();
                // A rule without dependencies for each source file.
                let names = text.lines().filter_map(|line| line.strip_suffix(':'));
                found.extend(names.map(|name| PathBuf::from(name.replace("\\ ", " "))));
            }
        }
    }
    found.retain(|path| path.is_absolute() && !path.starts_with(target) && !is_cargos(path));
    let manifest = |path: &PathBuf| path.ancestors().map(|folder| folder.join("Cargo.toml")).find(|path| path.exists());
    found.extend(found.iter().filter_map(manifest).collect::<Vec<_>>());
    found.sort();
    found.dedup();
    found
}

/// What cargo downloads is never changed.
fn is_cargos(path: &Path) -> bool {
    let parts: Vec<_> = path.components().map(|part| part.as_os_str()).collect();
    parts
        .windows(2)
        .any(|pair| (pair[0] == "registry" && pair[1] == "src") || (pair[0] == "git" && pair[1] == "checkouts"))
}
