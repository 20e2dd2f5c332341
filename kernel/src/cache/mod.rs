//! What kernels keep on disk: `ferrotune-kernel/` in the user's folder for caches.
//!
//! ```text
//! .cargo/config.toml     how everything here is compiled
//! slots/PID              the folder in which a kernel compiles; slots/PID.lock is locked while it is in use
//! prebuilt/KEY           a prelude, compiled: what a slot begins with; prebuilt/KEY.lock is locked by who compiles it
//! toolchains/NAME        the machine's toolchain, but for cargo
//! ```

mod clone;
mod prebuilt;
mod slot;
pub mod toolchain;

use std::path::PathBuf;

pub use prebuilt::{Build, Direct, FLAGS, Prebuilt};
pub use slot::Slot;

use crate::{Error, Result};

/// Cells run at full speed: this stands above every slot and overrides what evcxr writes into its manifest. What is compiled
/// incrementally, as cells are, is not optimized across units of code; what they depend on shall be.
const PROFILE: &str = "\
[profile.dev]
opt-level = 3
debug-assertions = false
overflow-checks = false

[profile.dev.package.\"*\"]
incremental = false
";

/// In a slot: what rust-analyzer is told of the packages there.
const METADATA: &str = "metadata.json";

/// The folder, with what is common to all in it.
///
/// Errors: [`Error::Input`] where nothing says where it is; [`Error::Write`].
fn root() -> Result<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    let none = || Error::Input("there is no folder for caches. Set HOME or XDG_CACHE_HOME to a full path.".into());
    let root = cache.ok_or_else(none)?.join("ferrotune-kernel");
    let config = root.join(".cargo");
    std::fs::create_dir_all(&config).map_err(Error::write(&config))?;
    let profile = config.join("config.toml");
    if std::fs::read_to_string(&profile).ok().as_deref() != Some(PROFILE) {
        // Whole at once: another kernel may be reading it.
        let new = config.join(format!("{}.new", std::process::id()));
        std::fs::write(&new, PROFILE).map_err(Error::write(&new))?;
        std::fs::rename(&new, &profile).map_err(Error::write(&profile))?;
    }
    Ok(root)
}
