//! A prelude that was compiled before: once for each toolchain and configuration, and again when its sources change.

mod metadata;
mod sources;

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use super::clone::clone;
use super::{METADATA, PROFILE, root};
use crate::config::Prelude;
use crate::{Error, Result, rustc};

/// What cargo built, by its name in a slot.
const TARGET: &str = "target";
const LOCK: &str = "Cargo.lock";
/// How cells and what they depend on are compiled, whatever else is said; evcxr's own choice.
pub const FLAGS: &str = "-Cprefer-dynamic";
/// The prelude's source files as they were.
const SOURCES: &str = "sources";
/// How long a prelude that nobody uses is kept: it takes half a gigabyte.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// Stands for the slot's folder in what was written down.
const SLOT: &str = "{slot}";

/// The place of one prelude.
#[derive(Debug)]
pub struct Prebuilt {
    folder: PathBuf,
    prelude: Prelude,
    /// The platform that the compiler runs on.
    host: &'static str,
}

/// The right to compile a prelude; nobody else does until it is dropped.
#[derive(Debug)]
pub struct Build<'a> {
    prebuilt: &'a Prebuilt,
    _lock: File,
}

/// A compiled prelude that cells are given as it is, without cargo.
#[derive(Debug)]
pub struct Direct {
    pub prelude: Prelude,
    /// What the compiler of a cell is told, separated as in `CARGO_ENCODED_RUSTFLAGS`.
    pub flags: String,
    slot: PathBuf,
    lock: PathBuf,
    /// Brings the libraries, while the engine starts.
    copy: Option<JoinHandle<io::Result<()>>>,
}

impl Prebuilt {
    /// Where `prelude` is, or will be, for the toolchain in use.
    ///
    /// Errors: [`Error::Write`].
    pub fn of(prelude: &Prelude) -> Result<Self> {
        let layout = [TARGET, LOCK, METADATA, SOURCES];
        // A hash that changes with this program's version is as good as one that does not.
        let mut hasher = DefaultHasher::new();
        (
            rustc::VERSION.as_str(),
            env!("CARGO_PKG_VERSION"),
            layout,
            PROFILE,
            &prelude.name,
            &prelude.path,
            &prelude.uses,
        )
            .hash(&mut hasher);
        let all = root()?.join("prebuilt");
        std::fs::create_dir_all(&all).map_err(Error::write(&all))?;
        let folder = all.join(format!("{}-{:016x}", prelude.name, hasher.finish()));
        Ok(Self { folder, prelude: prelude.clone(), host: rustc::property("host") })
    }

    /// Whether it is there and no source has changed since.
    pub fn is_fresh(&self) -> bool {
        std::fs::read_to_string(self.folder.join(SOURCES)).is_ok_and(|text| sources::unchanged(&text))
    }

    /// The right to compile it, unless it is fresh by then. Waits where another kernel is at it; `on_wait` is called first.
    ///
    /// Errors: [`Error::Write`].
    pub fn build(&self, on_wait: impl FnOnce()) -> Result<Option<Build<'_>>> {
        let lock = self.lock(on_wait)?;
        Ok((!self.is_fresh()).then_some(Build { prebuilt: self, _lock: lock }))
    }

    /// Gives what is here to `slot`; `None` where it has to be compiled first, or is no dynamic library.
    ///
    /// Errors: [`Error::Write`].
    pub fn give(&self, slot: &Path) -> Result<Option<Direct>> {
        let lock = self.lock(|| {})?;
        let Ok(metadata) = std::fs::read_to_string(self.folder.join(METADATA)) else { return Ok(None) };
        let debug = |target: &str| slot.join(TARGET).join(target).join("debug/deps");
        let (deps, of_host) = (debug(self.host), debug(""));
        let name = self.prelude.name.replace('-', "_");
        let library = format!("lib{name}.so");
        if !self.is_fresh() || !self.folder.join(TARGET).join(self.host).join("debug/deps").join(&library).exists() {
            return Ok(None);
        }
        let path = slot.join(METADATA);
        std::fs::write(&path, metadata.replace(SLOT, &slot.display().to_string())).map_err(Error::write(&path))?;
        let dependency = |folder: &Path| format!("dependency={}", folder.display());
        let flags = [FLAGS, "--extern", &format!("{name}={}", deps.join(library).display()), "-L"];
        let flags = [&flags[..], &[&dependency(&deps), "-L", &dependency(&of_host)]].concat().join("\u{1f}");
        let (from, to) = (self.folder.join(TARGET), slot.join(TARGET));
        let copy = std::thread::spawn(move || {
            let copied = clone(&from, &to);
            drop(lock);
            copied
        });
        let (slot, lock) = (slot.to_owned(), self.folder.join(LOCK));
        Ok(Some(Direct { prelude: self.prelude.clone(), flags, slot, lock, copy: Some(copy) }))
    }

    fn lock(&self, on_wait: impl FnOnce()) -> Result<File> {
        let path = self.folder.with_extension("lock");
        let lock = File::create(&path).map_err(Error::write(&path))?;
        if lock.try_lock().is_err() {
            on_wait();
            lock.lock().map_err(Error::write(&path))?;
        }
        Ok(lock)
    }
}

impl Build<'_> {
    /// Makes `slot` begin with what there is, and with the versions of the prelude's own workspace: newer ones than those
    /// that it is tested with are not chosen.
    ///
    /// Errors: [`Error::Write`].
    pub fn begin(&self, slot: &Path) -> Result<()> {
        let before = self.prebuilt.folder.join(TARGET);
        if before.exists() {
            clone(&before, &slot.join(TARGET)).map_err(Error::write(slot))?;
        }
        let folders = self.prebuilt.prelude.path.ancestors();
        match folders.map(|folder| folder.join(LOCK)).find(|path| path.exists()) {
            Some(path) => std::fs::copy(&path, slot.join(LOCK)).map(drop).map_err(Error::write(slot)),
            None => Ok(()),
        }
    }

    /// Keeps what was built in `slot`.
    ///
    /// Errors: [`Error::Write`]; [`Error::Engine`] where cargo cannot tell of it.
    pub fn publish(self, slot: &Path) -> Result<()> {
        let Prebuilt { folder, prelude, host } = self.prebuilt;
        let metadata = metadata::read(slot, host)?.replace(&slot.display().to_string(), SLOT);
        let new = folder.with_extension("new");
        let write = || {
            let _ = std::fs::remove_dir_all(&new);
            clone(&slot.join(TARGET), &new.join(TARGET))?;
            std::fs::copy(slot.join(LOCK), new.join(LOCK))?;
            std::fs::write(new.join(METADATA), metadata)?;
            std::fs::write(new.join(SOURCES), sources::list(&slot.join(TARGET), &prelude.path))?;
            if folder.exists() {
                std::fs::remove_dir_all(folder)?;
            }
            std::fs::rename(&new, folder)
        };
        write().map_err(Error::write(folder))?;
        sweep(folder.parent().unwrap_or(folder));
        Ok(())
    }
}

/// Removes what nobody has used for long. Best effort.
fn sweep(all: &Path) {
    let locks = std::fs::read_dir(all).into_iter().flatten().flatten().map(|entry| entry.path());
    for path in locks.filter(|path| path.extension().is_some_and(|e| e == "lock")) {
        // Locking writes to it.
        let used = path.metadata().and_then(|metadata| metadata.modified());
        let old = used.is_ok_and(|used| used.elapsed().is_ok_and(|age| age > KEPT));
        if old && File::open(&path).is_ok_and(|lock| lock.try_lock().is_ok()) {
            let _ = std::fs::remove_dir_all(path.with_extension(""));
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Direct {
    /// Waits until the libraries are in the slot.
    ///
    /// Errors: [`Error::Write`].
    pub fn arrive(&mut self) -> Result<()> {
        let copied = self.copy.take().map_or(Ok(Ok(())), JoinHandle::join);
        copied.unwrap_or_else(|_| Err(io::Error::other("the copy broke off"))).map_err(Error::write(&self.slot))
    }

    /// Makes the slot one in which cargo knows the prelude: for cells with dependencies of their own, which may share some.
    ///
    /// Errors: [`Error::Write`].
    pub fn leave(&self) -> Result<()> {
        let path = self.slot.join(METADATA);
        std::fs::remove_file(&path).map_err(Error::write(&path))?;
        std::fs::copy(&self.lock, self.slot.join(LOCK)).map(drop).map_err(Error::write(&self.slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    #[test]
    fn what_is_not_used_goes() {
        let all = tempfile::tempdir().unwrap();
        let path = |name: &str| all.path().join(name);
        for name in ["new", "old", "locked"] {
            std::fs::create_dir(path(name)).unwrap();
            let lock = File::create(path(name).with_extension("lock")).unwrap();
            if name != "new" {
                lock.set_modified(SystemTime::now() - 2 * KEPT).unwrap();
            }
        }
        let lock = File::open(path("locked.lock")).unwrap();
        lock.lock().unwrap();
        sweep(all.path());
        assert_eq!(["new", "old", "locked"].map(|name| path(name).exists()), [true, false, true]);
    }
}
