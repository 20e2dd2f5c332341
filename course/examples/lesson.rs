//! Runs the cells of a lesson, as a notebook would: `lesson NAME`.
//!
//! Where a cell begins, a frame says so, among those by which displays are shown; where one that is meant to fail has
//! failed, another has its error. `cargo course` reads them.

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

type Outcome = Result<(), Box<dyn std::error::Error>>;
type Lesson = fn() -> Outcome;

/// What cells find loaded.
#[path = "../../kernel/prelude/src/lib.rs"]
#[allow(unused_imports, unreachable_pub, reason = "it is a crate of its own elsewhere")]
mod prelude;

include!(concat!(env!("OUT_DIR"), "/lessons.rs"));

#[global_allocator]
static ALLOCATOR: ferrotune::ops::aligned::Aligned = ferrotune::ops::aligned::Aligned;

fn main() -> ExitCode {
    let name = std::env::args().nth(1).unwrap_or_default();
    let Some((_, lesson)) = LESSONS.iter().find(|(known, _)| *known == name) else {
        let names: Vec<&str> = LESSONS.iter().map(|(name, _)| *name).collect();
        eprintln!("error: there is no lesson `{name}`; there are {}.", names.join(", "));
        return ExitCode::from(2);
    };
    // The messages of panics are part of the outputs; no thread writes them elsewhere.
    std::panic::set_hook(Box::new(|_| {}));
    match catch_unwind(lesson) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(e)) => failed(&e.to_string()),
        Err(panic) => failed(&message(&*panic)),
    }
}

fn failed(what: &str) -> ExitCode {
    eprintln!("error: {what}");
    ExitCode::FAILURE
}

/// A cell begins.
fn begin(id: &str) {
    frame("begin", &serde_json::json!({"cell": id}));
}

/// Runs a cell that is meant to fail.
fn fails(cell: impl FnOnce() -> Outcome) {
    let (ename, evalue) = match catch_unwind(AssertUnwindSafe(cell)) {
        Ok(Ok(())) => return,
        Ok(Err(e)) => ("Error", e.to_string()),
        Err(panic) => ("Panic", message(&*panic)),
    };
    frame("error", &serde_json::json!({"ename": ename, "evalue": evalue}));
}

/// Whether cells are run that other hardware has run: no.
#[allow(dead_code, reason = "used where a lesson has such a cell")]
fn elsewhere() -> bool {
    false
}

fn message(panic: &dyn std::any::Any) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without a message".into())
}

fn frame(msg_type: &str, content: &serde_json::Value) {
    let frame = serde_json::json!({"msg_type": msg_type, "content": content});
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "\u{1e}{frame}").and_then(|()| out.flush());
}
