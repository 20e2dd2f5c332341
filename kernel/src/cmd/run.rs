//! `ferrotune-kernel run`: what Jupyter starts.

use std::path::PathBuf;

use jupyter_protocol::ConnectionInfo;

use crate::cache::Slot;
use crate::config::Config;
use crate::server;
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

pub fn run(args: &Args) -> Result<()> {
    let wrong = |what: String| Error::Input(format!("`{}`: {what}", args.connection_file.display()));
    let text = std::fs::read_to_string(&args.connection_file).map_err(|e| wrong(format!("could not be read: {e}.")))?;
    let connection: ConnectionInfo =
        serde_json::from_str(&text).map_err(|e| wrong(format!("is no connection file: {e}.")))?;
    let config = args.config.as_deref().map(Config::read).transpose()?.unwrap_or_default();
    server::serve(&connection, config, Slot::enter()?)
}
