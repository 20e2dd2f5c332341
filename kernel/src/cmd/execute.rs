//! `ferrotune-kernel execute`: runs a notebook without a frontend.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use nbformat::Notebook;
use nbformat::v4::Cell;

use crate::cache::Slot;
use crate::config::Config;
use crate::execute::{Collector, execute};
use crate::{Error, Result, rustc, warm_up};

/// Run a notebook and write what its cells show into it.
#[derive(clap::Args)]
pub struct Args {
    /// The notebook; its cells run in its folder
    #[arg(value_name = "NOTEBOOK")]
    notebook: PathBuf,
    /// The kernel's configuration, which names the prelude
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Write to this file and leave the notebook as it is
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Go on after a cell that fails; without this only a cell with the tag `raises-exception` may fail, and must
    #[arg(long)]
    allow_errors: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let path = std::path::absolute(&args.notebook)?;
    let mut notebook = read(&path)?;
    let output = args.output.as_ref().map_or(Ok(path.clone()), std::path::absolute)?;
    let config = args.config.as_deref().map(Config::read).transpose()?.unwrap_or_default();
    let slot = Slot::enter()?;
    // A terminal's interrupt is for the code in the cell, which gets it, too; here it ends the run after that cell.
    let interrupted = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGINT, interrupted.clone())?;
    std::env::set_current_dir(path.parent().unwrap_or(Path::new("/")))?;

    let collector = Collector::default();
    let (mut engine, failure) = warm_up::start(&config, slot.folder(), collector.sink(), |line| eprintln!("{line}"))?;
    if let Some(failure) = failure {
        return Err(Error::Engine(failure.traceback.join("\n")));
    }
    if let Err(missing) = rustc::sources() {
        eprintln!("{missing}");
    }
    let all = notebook.cells.iter().filter(|cell| matches!(cell, Cell::Code { .. })).count();
    let begun = Instant::now();
    let on_cell = |number, code: &str| {
        let first = code.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
        eprintln!("{:6.1} s  cell {number} of {all}: {first}", begun.elapsed().as_secs_f64());
        !interrupted.load(Ordering::SeqCst)
    };
    let result = execute(&mut engine, &mut notebook, &collector, args.allow_errors, on_cell);
    write(notebook, &output)?;
    let shown = output.display();
    match result {
        _ if interrupted.load(Ordering::SeqCst) => {
            Err(Error::Interrupted(format!("`{shown}` has the outputs of the cells that were run.")))
        }
        Err(stopped) => Err(Error::Cell(format!(
            "cell {} of {all} in `{}`: {}. `{shown}` has the outputs so far.",
            stopped.number,
            path.display(),
            stopped.what
        ))),
        Ok(()) => {
            println!("{all} cells ran in {:.1} s; `{shown}` has their outputs.", begun.elapsed().as_secs_f64());
            Ok(())
        }
    }
}

/// A notebook of any version that has cells with outputs, as the newest.
fn read(path: &Path) -> Result<nbformat::v4::Notebook> {
    let wrong = |what: String| Error::Input(format!("`{}`: {what}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|e| wrong(format!("could not be read: {e}.")))?;
    match nbformat::parse_notebook(&text).map_err(|e| wrong(format!("is no notebook: {e}.")))? {
        Notebook::V4(notebook) => Ok(notebook),
        Notebook::V4QuirksMode(quirks) => Ok(quirks.repair()),
        Notebook::Legacy(old) => nbformat::upgrade_legacy_notebook(old).map_err(|e| wrong(e.to_string())),
        _ => Err(wrong("is of a format before 4. Open it in Jupyter once and save it.".into())),
    }
}

/// All of it or nothing.
fn write(notebook: nbformat::v4::Notebook, path: &Path) -> Result<()> {
    let text = nbformat::serialize_notebook(&Notebook::V4(notebook))
        .map_err(|e| Error::write(path)(std::io::Error::other(e)))?;
    let new = path.with_extension(format!("{}.new", std::process::id()));
    std::fs::write(&new, text).map_err(Error::write(&new))?;
    std::fs::rename(&new, path).map_err(Error::write(path))
}
