//! `ferrotune-kernel run`: what Jupyter starts.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use jupyter_protocol::ConnectionInfo;

use crate::config::Config;
use crate::server;
use crate::slot::{self, Slot};
use crate::{Error, Result};

/// Serve a frontend; Jupyter starts this.
#[derive(clap::Args)]
pub struct Args {
    /// The file by which Jupyter tells ports and key
    #[arg(long, value_name = "FILE")]
    connection_file: PathBuf,
    /// The kernel's configuration, which names the prelude
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Set by the first of the two processes that `run` is, one after the other.
const SLOT: &str = "FERROTUNE_KERNEL_SLOT";

pub fn run(args: &Args) -> Result<()> {
    let wrong = |what: String| Error::Input(format!("`{}`: {what}", args.connection_file.display()));
    let text = std::fs::read_to_string(&args.connection_file).map_err(|e| wrong(format!("could not be read: {e}.")))?;
    let connection: ConnectionInfo =
        serde_json::from_str(&text).map_err(|e| wrong(format!("is no connection file: {e}.")))?;
    let config = args.config.as_deref().map(Config::read).transpose()?.unwrap_or_default();
    if let Some(folder) = std::env::var_os(SLOT) {
        return server::serve(&connection, config, Slot::adopt(folder.into()));
    }
    // evcxr takes its folder from the environment, which only a process to be can be given.
    let folder = Slot::create(std::process::id())?.keep();
    let arguments = std::env::args_os().skip(1);
    let mut again = Command::new(std::env::current_exe()?);
    again.args(arguments).env(SLOT, &folder).env(slot::TMPDIR, &folder);
    Err(again.exec().into())
}
