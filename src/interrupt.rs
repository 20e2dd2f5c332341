//! Requests to stop what is running, as a notebook makes them: by SIGINT.
//!
//! Work that can be stopped calls [`begin`] once and asks [`asked`] between its steps. A program that handles the signal
//! itself, as the command line does, has no need of this module: everything below takes its answer as a closure.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// Set by the signal. The registration lasts as long as the process.
fn flag() -> &'static Arc<AtomicBool> {
    static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    FLAG.get_or_init(|| {
        let flag = Arc::new(AtomicBool::new(false));
        // Where the signal cannot be listened to, work runs to its end as any other does.
        let _ = signal_hook::flag::register(signal_hook::consts::SIGINT, flag.clone());
        flag
    })
}

/// Listens from here on, and forgets earlier requests: they were for work that is over.
pub fn begin() {
    flag().store(false, Ordering::SeqCst);
}

/// Whether somebody asked the work to stop since it began.
pub fn asked() -> bool {
    flag().load(Ordering::SeqCst)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_a_request_until_the_next_work_begins() {
        begin();
        assert!(!asked());
        signal_hook::low_level::raise(signal_hook::consts::SIGINT).unwrap();
        assert!(asked());
        assert!(asked(), "asking does not use the request up");
        begin();
        assert!(!asked());
    }
}
