//! `ferrotune-kernel prebuild`: compiles what cells find loaded.

use std::path::PathBuf;
use std::time::Instant;

use rustix::process::{Signal, set_parent_process_death_signal};

use crate::config::Config;
use crate::prebuild::prebuild;
use crate::{Error, Result};

/// Compile what cells find loaded, once, so that notebooks open in seconds.
#[derive(clap::Args)]
pub struct Args {
    /// The kernel's configuration, which names the prelude
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// End when the process ends that started this one
    #[arg(long, hide = true)]
    with_parent: bool,
}

pub fn run(args: &Args) -> Result<()> {
    if args.with_parent {
        set_parent_process_death_signal(Some(Signal::KILL)).map_err(std::io::Error::from)?;
    }
    let config = Config::read(&args.config)?;
    let Some(prelude) = &config.prelude else {
        let what = format!("`{}` names no prelude, so there is nothing to compile.", args.config.display());
        return Err(Error::Input(what));
    };
    let begun = Instant::now();
    if prebuild(prelude, |line| eprintln!("{line}"))? {
        println!("`{}` is compiled ({:.0} s).", prelude.name, begun.elapsed().as_secs_f64());
    } else {
        println!("`{}` is compiled already.", prelude.name);
    }
    Ok(())
}
