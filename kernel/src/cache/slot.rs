//! The folder in which a kernel compiles its cells: one for each kernel, so that two never disturb each other.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::io::FdFlags;

use super::{root, toolchain};
use crate::{Error, Result};

/// The environment variable by which evcxr takes its folder.
const TMPDIR: &str = "EVCXR_TMPDIR";

/// A kernel's own folder, removed with this value.
#[derive(Debug)]
pub struct Slot {
    folder: PathBuf,
}

impl Slot {
    /// Set by the first of the two programs that a process with a slot is, one after the other. A process that is to have a
    /// slot of its own must not have it in its environment.
    pub const VARIABLE: &str = "FERROTUNE_KERNEL_SLOT";

    /// The slot of this process. evcxr takes its folder from the environment, which only a program to be can be given: so
    /// the first call starts this program once more in the same process, with the same arguments.
    ///
    /// Errors: [`Error::Write`]; [`Error::Engine`] where there is no Rust; the program cannot be started.
    pub fn enter() -> Result<Self> {
        if let Some(folder) = std::env::var_os(Self::VARIABLE) {
            return Ok(Self { folder: folder.into() });
        }
        let slot = Self::create()?;
        let mut again = Command::new(std::env::current_exe()?);
        again.args(std::env::args_os().skip(1)).env(Self::VARIABLE, slot.folder()).env(TMPDIR, slot.folder());
        again.envs(toolchain::VARIABLES.into_iter().zip(toolchain::set_up()?));
        // Returns only if it fails.
        Err(again.exec().into())
    }

    /// The folder of this process, empty, and its own until the process and all that it starts have ended, also if it
    /// becomes another program. Folders that nobody has any more go away.
    ///
    /// Errors: [`Error::Write`].
    fn create() -> Result<Self> {
        let slots = root()?.join("slots");
        std::fs::create_dir_all(&slots).map_err(Error::write(&slots))?;
        sweep(&slots);
        let folder = slots.join(std::process::id().to_string());
        let lock_path = lock_path(&folder);
        let lock = File::create(&lock_path).map_err(Error::write(&lock_path))?;
        lock.lock().map_err(Error::write(&lock_path))?;
        // Inherited, so that a compiler that outlives this process keeps its folder.
        rustix::io::fcntl_setfd(&lock, FdFlags::empty()).map_err(|e| Error::write(&lock_path)(e.into()))?;
        std::mem::forget(lock);
        // A process that had this number may have left it.
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).map_err(Error::write(&folder))?;
        Ok(Self { folder })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        remove(&self.folder);
    }
}

fn lock_path(folder: &Path) -> PathBuf {
    folder.with_extension("lock")
}

fn remove(folder: &Path) {
    let _ = std::fs::remove_dir_all(folder);
    let _ = std::fs::remove_file(lock_path(folder));
}

/// Removes the slots that nobody has locked. Best effort: another kernel may be at it, too.
fn sweep(slots: &Path) {
    let entries = std::fs::read_dir(slots).into_iter().flatten().flatten();
    for folder in entries.map(|entry| entry.path()).filter(|path| path.is_dir()) {
        let free = File::create(lock_path(&folder)).is_ok_and(|lock| lock.try_lock().is_ok());
        if free {
            remove(&folder);
        }
    }
}
