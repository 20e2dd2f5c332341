//! `ferrotune-kernel uninstall`: Jupyter forgets this kernel.

use super::install::Place;
use crate::{Error, Result};

/// Remove this kernel from Jupyter.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    place: Place,
}

pub fn run(args: &Args) -> Result<()> {
    let folder = args.place.folder()?;
    if !folder.join("kernel.json").exists() {
        println!("There is no kernel in `{}`.", folder.display());
        return Ok(());
    }
    std::fs::remove_dir_all(&folder).map_err(Error::write(&folder))?;
    println!("The kernel in `{}` is removed.", folder.display());
    Ok(())
}
