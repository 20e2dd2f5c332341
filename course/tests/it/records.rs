//! Every lesson's cells run, and show what their records say.

use std::path::PathBuf;

use ferrotune_course::{bless, run};

use crate::course;

/// The program that runs lessons, which cargo builds beside this test.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().and_then(|deps| deps.parent()).unwrap().join("examples/lesson");
    assert!(program.is_file(), "`{}` is not built: run `cargo build --workspace --example lesson`", program.display());
    program
}

#[test]
fn cells_show_what_their_records_say() {
    let program = program();
    let mut findings = Vec::new();
    for lesson in course().lessons().unwrap() {
        let now = run::run(&course(), &lesson, &program, |_| {}).unwrap_or_else(|e| panic!("{e}"));
        findings.extend(bless::differences(&course(), &lesson, &now).unwrap());
    }
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}
