//! `ferrotune-kernel prebuild`: compiles what cells find loaded.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use crate::cache::{Prebuilt, Slot};
use crate::config::Config;
use crate::engine::{Engine, Output};
use crate::warm_up::{self, Note};
use crate::{Error, Result};

/// Compile what cells find loaded, once, so that notebooks open in seconds.
#[derive(clap::Args)]
pub struct Args {
    /// The kernel's configuration, which names the prelude
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

pub fn run(args: &Args) -> Result<()> {
    let config = Config::read(&args.config)?;
    let Some(prelude) = &config.prelude else {
        let what = format!("`{}` names no prelude, so there is nothing to compile.", args.config.display());
        return Err(Error::Input(what));
    };
    if Prebuilt::of(prelude)?.is_fresh() {
        println!("`{}` is compiled already.", prelude.name);
        return Ok(());
    }
    let slot = Slot::enter()?;
    let begun = Instant::now();
    let engine = Engine::start(
        slot.folder(),
        Arc::new(|output: Output| {
            if let Output::Stdout(text) | Output::Stderr(text) = output {
                eprint!("{text}");
            }
        }),
    );
    let loaded = warm_up::load_prelude(&mut engine?, &config, slot.folder(), tell);
    loaded.map_err(|failure| Error::Engine(failure.traceback.join("\n")))?;
    println!("`{}` is compiled ({:.0} s).", prelude.name, begun.elapsed().as_secs_f64());
    Ok(())
}

/// Tells on standard error, where evcxr names each crate.
pub(super) fn tell(note: Note) {
    match note {
        Note::Waiting(name) => eprintln!("waiting for another process that compiles `{name}`"),
        Note::Compiling(name) => eprintln!("compiling `{name}` and what it depends on; this takes some minutes"),
        Note::Progress { done, all } if all > 0 && done * 10 / all != done.saturating_sub(1) * 10 / all => {
            eprintln!("{done} of {all} crates");
        }
        Note::Progress { .. } => {}
    }
}
