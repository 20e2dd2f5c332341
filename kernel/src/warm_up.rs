//! From a configuration to an engine whose prelude is loaded.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::cache::Prebuilt;
use crate::config::Config;
use crate::engine::{Engine, Failure, Outcome};

/// How often the compiler's progress is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// What a person who waits is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// Another kernel is compiling the prelude of this name.
    Waiting(String),
    /// The prelude of this name has to be compiled.
    Compiling(String),
    /// This many crates of `all` are compiled; `all` is 0 where it is not known.
    Progress { done: usize, all: usize },
}

/// Runs the cells that load the prelude, and keeps what had to be compiled for the next kernel.
///
/// Errors: those of [`Prebuilt`]; what the compiler says of the prelude.
pub fn load_prelude(
    engine: &mut Engine,
    config: &Config,
    folder: &Path,
    note: impl Fn(Note) + Send + Sync + 'static,
) -> Result<(), Failure> {
    let Some(prelude) = &config.prelude else { return Ok(()) };
    let kernel_error = |error: crate::Error| Failure::new("KernelError", error.to_string());
    let prebuilt = Prebuilt::of(prelude).map_err(kernel_error)?;
    let waiting = || note(Note::Waiting(prelude.name.clone()));
    let build = prebuilt.begin(folder, waiting).map_err(kernel_error)?;
    prebuilt.lock_versions(folder).map_err(kernel_error)?;
    let progress = build.as_ref().map(|_| {
        note(Note::Compiling(prelude.name.clone()));
        Progress::start(folder, note)
    });
    let outcome = engine.run(&prelude.cell(), &|_, _| None);
    drop(progress);
    match outcome {
        Outcome::Failed(failure) => Err(failure),
        Outcome::Ok(_) => build.map_or(Ok(()), |build| build.publish(folder).map_err(kernel_error)),
    }
}

/// Tells of the compiler's progress until it is dropped: evcxr does not.
struct Progress {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    fn start(folder: &Path, note: impl Fn(Note) + Send + 'static) -> Self {
        let (stop, stopped) = channel();
        let folder = folder.to_owned();
        let thread = std::thread::spawn(move || {
            let (mut all, mut before) = (0, 0);
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(LOOK) {
                let done = compiled(&folder);
                if all == 0 && done > 0 {
                    all = packages(&folder);
                }
                // A package that both the build and the program need is compiled twice.
                let done = if all > 0 { done.min(all) } else { done };
                if done > before {
                    before = done;
                    note(Note::Progress { done, all });
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

/// How many packages there are to compile in `folder`, or 0.
fn packages(folder: &Path) -> usize {
    let arguments = ["tree", "--locked", "--offline", "--edges", "normal,build", "--prefix", "none", "--no-dedupe"];
    let output = Command::new("cargo").args(arguments).current_dir(folder).output();
    let Some(output) = output.ok().filter(|output| output.status.success()) else { return 0 };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // The first line is the package of the cells.
    text.lines().collect::<BTreeSet<_>>().len().saturating_sub(1)
}
