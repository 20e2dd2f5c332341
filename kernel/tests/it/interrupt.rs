//! Interrupts, and processes that end.

use jupyter_protocol::{JupyterMessageContent as Content, ReplyStatus};
use serde_json::json;

use crate::frontend::Frontend;

/// A macro that never ends: it keeps the compiler busy until it is stopped.
pub(crate) const ENDLESS: &str =
    "#![recursion_limit = \"1000000000\"]\nmacro_rules! f { ($($t:tt)*) => { f!($($t)* a a a a) } }\nf!(b);";

/// Waits until the cell says so on standard output.
fn wait_for(frontend: &mut Frontend, text: &str) {
    loop {
        if let Content::StreamContent(stream) = frontend.published().content
            && stream.text.contains(text)
        {
            return;
        }
    }
}

#[test]
fn an_interrupt_loses_nothing_and_a_second_one_ends_the_process() {
    let mut frontend = Frontend::start();
    frontend.run("let kept = 7;");
    frontend.interrupt();
    assert_eq!(frontend.run("kept").value(), json!({"text/plain": "7"}), "an idle kernel is not disturbed");

    // Work that listens returns what it has, to a variable as well; what waited behind it is not run.
    let [id, waiting] = ["let result = work();", "panic!();"].map(|code| frontend.execute(code));
    wait_for(&mut frontend, "working");
    frontend.interrupt();
    assert!(frontend.outputs(&id).is_empty());
    assert_eq!(frontend.executed().status, ReplyStatus::Ok);
    frontend.outputs(&waiting);
    assert_eq!(frontend.executed().status, ReplyStatus::Aborted);
    assert_eq!(frontend.run("(kept, result)").value(), json!({"text/plain": "(7, \"partial\")"}));

    // A compiler is stopped.
    let id = frontend.execute(ENDLESS);
    compiler_runs(&frontend);
    frontend.interrupt();
    let outputs = frontend.outputs(&id);
    let stopped = |o: &Content| matches!(o, Content::ErrorOutput(e) if e.ename == "Interrupted");
    assert!(outputs.iter().any(stopped), "{outputs:?}");
    assert_eq!(frontend.executed().status, ReplyStatus::Error);
    assert_eq!(frontend.run("kept").value(), json!({"text/plain": "7"}));

    // Code that does not listen is told of, and ended by the second interrupt.
    let checkpoint =
        "\\u{1e}{{\\\"msg_type\\\":\\\"status\\\",\\\"content\\\":{{\\\"checkpoint\\\":\\\"runs/a/checkpoint-8\\\"}}}}";
    let id = frontend
        .execute(&format!("println!(\"{checkpoint}\"); println!(\"deaf\"); loop {{ std::thread::yield_now(); }}"));
    wait_for(&mut frontend, "deaf");
    frontend.interrupt();
    wait_for(&mut frontend, "Interrupt again");
    frontend.interrupt();
    let outputs = frontend.outputs(&id);
    let [Content::ErrorOutput(error)] = &outputs[..] else { panic!("{outputs:?}") };
    assert_eq!(error.ename, "Interrupted");
    assert!(
        error.evalue.contains("all variables are lost. The newest checkpoint is in `runs/a/checkpoint-8`"),
        "{}",
        error.evalue
    );
    frontend.executed();
    assert_eq!(frontend.run("kept").error().ename, "E0425");

    // A process that dies of its own accord is told of, and the prelude is there for the next cell.
    let ran = frontend.run("std::process::abort();");
    assert_eq!(ran.error().ename, "ProcessEnded");
    assert!(ran.error().evalue.contains("SIGABRT"), "{}", ran.error().evalue);
    assert_eq!(frontend.run("id()").value(), json!({"text/plain": "0"}));
    assert_eq!(frontend.run("panic!(\"still told of\");").error().evalue, "still told of");
}

/// Waits until the kernel has a rustc at work.
pub(crate) fn compiler_runs(frontend: &Frontend) {
    let kernel = frontend.process.id();
    let parent = |pid: u32| -> Option<(u32, String)> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (head, rest) = stat.rsplit_once(") ")?;
        let name = head.split_once(" (")?.1.to_owned();
        Some((rest.split(' ').nth(1)?.parse().ok()?, name))
    };
    let descends = |mut pid: u32| loop {
        match parent(pid) {
            Some((of, _)) if of == kernel => return true,
            Some((of, _)) if of > 1 => pid = of,
            _ => return false,
        }
    };
    loop {
        let pids = std::fs::read_dir("/proc").unwrap().flatten();
        let mut pids = pids.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
        if pids.any(|pid| parent(pid).is_some_and(|(_, name)| name == "rustc") && descends(pid)) {
            return;
        }
        std::thread::yield_now();
    }
}
