//! Ctrl-C: the first asks the work to stop cleanly, the second ends the process.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::failure::Failure;

static ASKED: AtomicBool = AtomicBool::new(false);
/// Whether there is nothing to stop: a person is being waited for.
static IDLE: AtomicBool = AtomicBool::new(false);

/// Listens for SIGINT, SIGTERM and SIGHUP from here on.
pub(crate) fn listen() -> Result<(), Failure> {
    let handler = || {
        if ASKED.swap(true, Ordering::SeqCst) || IDLE.load(Ordering::SeqCst) {
            std::process::exit(130);
        }
        eprintln!("\nstopping after this step; press Ctrl-C again to stop at once");
    };
    ctrlc::set_handler(handler).map_err(|e| Failure::Running(format!("could not listen for Ctrl-C: {e}.")))
}

/// Whether somebody asked the work to stop.
pub(crate) fn asked() -> bool {
    ASKED.load(Ordering::SeqCst)
}

/// Waits for a person by `wait`, during which a request ends the process; forgets an earlier request, whose work is done.
pub(crate) fn idle<T>(wait: impl FnOnce() -> T) -> T {
    ASKED.store(false, Ordering::SeqCst);
    IDLE.store(true, Ordering::SeqCst);
    let result = wait();
    IDLE.store(false, Ordering::SeqCst);
    result
}
