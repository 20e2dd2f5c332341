//! A prelude as small as can be: something that all cells share, and work that heeds interrupts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// A number that no call before has given.
pub fn id() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NEXT.fetch_add(1, Ordering::SeqCst)
}

/// Works until it is interrupted; says so first.
pub fn work() -> &'static str {
    let asked = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(2, asked.clone()).unwrap();
    println!("working");
    while !asked.load(Ordering::SeqCst) {
        std::thread::yield_now();
    }
    "partial"
}
