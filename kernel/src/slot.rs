//! The folder in which a kernel compiles its cells: one for each kernel, so that two never disturb each other.

use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// The environment variable by which evcxr takes its folder.
pub const TMPDIR: &str = "EVCXR_TMPDIR";

/// Cells run at full speed: this stands above every slot and overrides what evcxr writes into its manifest.
const PROFILE: &str = "\
[profile.dev]
opt-level = 3
debug-assertions = false
overflow-checks = false
";

/// A kernel's own folder, removed with this value.
#[derive(Debug)]
pub struct Slot {
    folder: PathBuf,
}

impl Slot {
    /// The folder of the process `pid`, empty; folders of processes that have ended go away.
    ///
    /// Errors: [`Error::Write`].
    pub fn create(pid: u32) -> Result<Self> {
        let root = root()?;
        let config = root.join(".cargo");
        std::fs::create_dir_all(&config).map_err(Error::write(&config))?;
        let profile = config.join("config.toml");
        if std::fs::read_to_string(&profile).ok().as_deref() != Some(PROFILE) {
            // Whole at once: another kernel may be reading it.
            let new = config.join(format!("{pid}.new"));
            std::fs::write(&new, PROFILE).map_err(Error::write(&new))?;
            std::fs::rename(&new, &profile).map_err(Error::write(&profile))?;
        }
        sweep(&root);
        let folder = root.join(pid.to_string());
        // A process that had this number may have left it.
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).map_err(Error::write(&folder))?;
        Ok(Self { folder })
    }

    /// The folder that [`Slot::create`] made, in the same process after it has become another program.
    pub fn adopt(folder: PathBuf) -> Self {
        Self { folder }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Leaves the folder where it is.
    pub fn keep(mut self) -> PathBuf {
        std::mem::take(&mut self.folder)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if !self.folder.as_os_str().is_empty() {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// Where the slots are.
fn root() -> Result<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    let none = || Error::Input("there is no folder for caches. Set HOME or XDG_CACHE_HOME to a full path.".into());
    Ok(cache.ok_or_else(none)?.join("ferrotune-kernel/slots"))
}

/// Removes the slots of processes that are no more. Best effort: another kernel may be at it, too.
fn sweep(root: &Path) {
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
    for entry in entries {
        let pid = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
