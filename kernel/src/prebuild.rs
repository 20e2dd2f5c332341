//! Compiles a prelude and keeps it for kernels to come.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::cache::{Prebuilt, Slot};
use crate::config::Prelude;
use crate::engine::{Engine, Outcome};
use crate::{Error, Result};

/// How often the compiler's progress is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Compiles `prelude` in the slot of this process, unless it is fresh. `note` is called with lines for a person who waits.
/// False where there was nothing to do.
///
/// Errors: those of [`Prebuilt`] and [`Engine`]; [`Error::Engine`] with what the compiler says of the prelude.
pub fn prebuild(prelude: &Prelude, note: impl Fn(&str) + Clone + Send + 'static) -> Result<bool> {
    let prebuilt = Prebuilt::of(prelude)?;
    if prebuilt.is_fresh() {
        return Ok(false);
    }
    let slot = Slot::enter()?;
    let wait = || note(&format!("another process is compiling `{}`; waiting for it", prelude.name));
    let Some(build) = prebuilt.build(wait)? else { return Ok(false) };
    note(&format!("compiling `{}` and what it depends on: some minutes, and only this once", prelude.name));
    let mut engine = Engine::start(slot.folder(), None, Arc::new(|_| {}))?;
    // Only now: the engine's first cells have no dependencies, and cargo forgets the versions.
    build.begin(slot.folder())?;
    let progress = Progress::start(slot.folder(), note);
    let outcome = engine.run(&prelude.cell(), &|_, _| None);
    drop(progress);
    match outcome {
        Outcome::Failed(failure) => Err(Error::Engine(failure.traceback.join("\n"))),
        Outcome::Ok(_) => build.publish(slot.folder()).map(|()| true),
    }
}

/// Tells of the compiler's progress, each tenth, until it is dropped: evcxr does not.
struct Progress {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    fn start(folder: &Path, note: impl Fn(&str) + Send + 'static) -> Self {
        let (stop, stopped) = channel();
        let folder = folder.to_owned();
        let thread = std::thread::spawn(move || {
            let (mut all, mut told) = (0, 0);
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(LOOK) {
                let done = compiled(&folder);
                if all == 0 && done > 0 {
                    all = packages(&folder);
                }
                // A package that both the build and the program need is compiled twice.
                let done = done.min(all);
                if all > 0 && done * 10 / all > told * 10 / all {
                    told = done;
                    note(&format!("{done} of {all} crates"));
                }
            }
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// How many packages cargo has compiled in `folder`: by its notes on each, which it writes when one is done.
fn compiled(folder: &Path) -> usize {
    let entries = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path());
    let mut done = BTreeSet::new();
    for target in entries(&folder.join("target")).chain([folder.join("target")]) {
        for package in entries(&target.join("debug/.fingerprint")) {
            let finished = |path: &Path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("dep-lib-"));
            if entries(&package).any(|path| finished(&path)) {
                done.insert(package.file_name().map(ToOwned::to_owned));
            }
        }
    }
    done.len()
}

/// How many packages there are to compile in `folder`, or 0 where cargo does not say.
fn packages(folder: &Path) -> usize {
    let arguments = ["tree", "--locked", "--offline", "--edges", "normal,build", "--prefix", "none", "--no-dedupe"];
    let output = Command::new("cargo").args(arguments).current_dir(folder).output();
    let Some(output) = output.ok().filter(|output| output.status.success()) else { return 0 };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // The first line is the package of the cells.
    text.lines().collect::<BTreeSet<_>>().len().saturating_sub(1)
}
