//! Stopping a cell without losing a variable, where that can be had.
//!
//! A compiler is ended; the process of the cells is untouched by it. Running code is asked by SIGINT, which code that trains
//! listens for. Only a second request ends the process.

use std::process::Child;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// How often the compiler's processes are looked for.
const LOOK: Duration = Duration::from_millis(50);
/// When code that goes on is told of.
const PATIENCE: Duration = Duration::from_millis(1500);

/// How far the interruption of a cell has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nobody has asked.
    None,
    /// The code was asked to stop, or its compiler ended.
    Asked,
    /// The process was ended.
    Killed,
}

/// What the interrupter and the engine know of the current cell.
#[derive(Debug, Default)]
struct Cell {
    /// Odd while a cell is being compiled or runs; each cell has its own number.
    number: AtomicU64,
    stage: AtomicU8,
    compiler_ended: AtomicU8,
}

/// Interrupts the cell that is in work. Clones interrupt the same engine.
#[derive(Clone)]
pub struct Interrupter {
    process: Arc<Mutex<Child>>,
    cell: Arc<Cell>,
}

/// What came of an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupted {
    /// There was nothing to interrupt.
    Idle,
    Asked,
    Killed,
}

impl Interrupter {
    pub(super) fn new(process: Arc<Mutex<Child>>) -> Self {
        Self { process, cell: Arc::default() }
    }

    /// Asks the current cell to stop; ends it if it was asked before. `goes_on` is called if it does not heed the request.
    pub fn interrupt(&self, goes_on: impl FnOnce() + Send + 'static) -> Interrupted {
        let number = self.cell.number.load(Ordering::SeqCst);
        if number.is_multiple_of(2) {
            return Interrupted::Idle;
        }
        if self.cell.stage.swap(1, Ordering::SeqCst) != 0 {
            self.cell.stage.store(2, Ordering::SeqCst);
            self.kill();
            return Interrupted::Killed;
        }
        if self.compilers().is_empty()
            && let Some(pid) = self.pid()
        {
            // It may have ended just now, which is as good.
            let _ = kill_process(pid, Signal::INT);
        }
        let this = self.clone();
        std::thread::spawn(move || this.watch(number, goes_on));
        Interrupted::Asked
    }

    /// Ends the process of the cells and the compiler, if it is at work.
    pub fn kill(&self) {
        for pid in self.compilers() {
            let _ = kill_process(pid, Signal::KILL);
        }
        let mut child = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = child.kill();
    }

    /// Ends compilers until the cell has ended: evcxr may start another one after the first.
    fn watch(&self, number: u64, goes_on: impl FnOnce()) {
        let mut waited = Duration::ZERO;
        let mut goes_on = Some(goes_on);
        while self.cell.number.load(Ordering::SeqCst) == number {
            let compilers = self.compilers();
            if !compilers.is_empty() {
                self.cell.compiler_ended.store(1, Ordering::SeqCst);
            }
            for pid in compilers {
                let _ = kill_process(pid, Signal::TERM);
            }
            if waited >= PATIENCE
                && let Some(tell) = goes_on.take()
            {
                tell();
            }
            std::thread::sleep(LOOK);
            waited += LOOK;
        }
    }

    pub(super) fn begin(&self) {
        self.cell.stage.store(0, Ordering::SeqCst);
        self.cell.compiler_ended.store(0, Ordering::SeqCst);
        self.cell.number.fetch_add(1, Ordering::SeqCst);
    }

    /// How far it went, and whether a compiler was ended.
    pub(super) fn end(&self) -> (Stage, bool) {
        self.cell.number.fetch_add(1, Ordering::SeqCst);
        let stage = match self.cell.stage.load(Ordering::SeqCst) {
            0 => Stage::None,
            1 => Stage::Asked,
            _ => Stage::Killed,
        };
        (stage, self.cell.compiler_ended.load(Ordering::SeqCst) != 0)
    }

    fn pid(&self) -> Option<Pid> {
        let child = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        Pid::from_raw(i32::try_from(child.id()).ok()?)
    }

    /// The cargo and rustc processes that descend from this one, but not from the process of the cells, which may run
    /// cargo of its own accord.
    fn compilers(&self) -> Vec<Pid> {
        let cells = self.pid();
        let mut found = Vec::new();
        let mut parents = vec![rustix::process::getpid()];
        let all = processes();
        while let Some(parent) = parents.pop() {
            for (pid, _, name) in all.iter().filter(|(pid, of, _)| *of == parent && Some(*pid) != cells) {
                parents.push(*pid);
                if ["cargo", "rustc", "clippy-driver", "ld", "cc"].contains(&name.as_str()) {
                    found.push(*pid);
                }
            }
        }
        found
    }
}

/// Process, parent and name of all processes, where the system tells.
fn processes() -> Vec<(Pid, Pid, String)> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| status(&std::fs::read_to_string(entry.path().join("stat")).ok()?)).collect()
}

/// Reads `/proc/PID/stat`: `pid (name) state parent …`. The name may hold anything.
fn status(stat: &str) -> Option<(Pid, Pid, String)> {
    let (pid, rest) = stat.split_once(" (")?;
    let (name, rest) = rest.rsplit_once(") ")?;
    let parent = rest.split(' ').nth(1)?;
    Some((Pid::from_raw(pid.parse().ok()?)?, Pid::from_raw(parent.parse().ok()?)?, name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_anything() {
        let (pid, parent, name) = status("12 (a) b (c)) S 7 1 1 0").unwrap();
        assert_eq!((pid.as_raw_nonzero().get(), parent.as_raw_nonzero().get(), name.as_str()), (12, 7, "a) b (c)"));
        assert_eq!(status("nonsense"), None);
    }
}
