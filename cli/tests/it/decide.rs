//! `ferrotune decide`, by flags and by standard input.

use std::io::Write;
use std::process::{Command, Stdio};

use insta::assert_snapshot;

use super::{Outcome, ferrotune};

/// Runs it with lines on standard input.
fn asked(args: &[&str], answers: &str) -> Outcome {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ferrotune"))
        .arg("decide")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may be done before it has read all.
    let _ = child.stdin.take().unwrap().write_all(answers.as_bytes());
    let out = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Outcome { code: out.status.code(), stdout: text(out.stdout), stderr: text(out.stderr) }
}

#[test]
fn answers_lead_to_an_advice() {
    let out = asked(&[], "no\nno\nyes\n");
    assert_eq!((out.code, out.stderr.as_str()), (Some(0), ""));
    assert_snapshot!(out.stdout, @r"
    Fine-tune. The form goes into the weights, and prompts become short. Keep a held-out set, and look at it before and after.

    Because:
      no   Must answers hold facts from documents, or facts that change?
      no   Does a prompt, with examples in it, give the form you need often enough?
      yes  Do you have some hundred good examples of question and answer?

    `ferrotune compare` tries all approaches on one task and measures them.
    ");
    let flags = ferrotune(&["decide", "--knowledge", "no", "--form", "no", "--examples", "yes"]);
    assert_eq!(flags.stdout, out.stdout);
}

#[test]
fn as_json_it_has_the_way_there() {
    let out = asked(&["--knowledge", "yes", "--json"], "có\n");
    let told: serde_json::Value = serde_json::from_str(&out.stdout).unwrap();
    assert_eq!(told["advice"], "retrieval");
    assert_eq!(told["answers"][1]["question"], "form-with-facts");
    let tree: serde_json::Value = serde_json::from_str(&ferrotune(&["decide", "--tree", "--json"]).stdout).unwrap();
    assert_eq!(tree["questions"].as_array().unwrap().len(), 6);
    assert!(ferrotune(&["decide", "--tree"]).stdout.starts_with("flowchart TD\n"));
}

#[test]
fn a_decision_left_half_answered_is_refused() {
    let out = asked(&[], "no\n");
    assert_eq!(out.code, Some(2));
    assert!(out.stderr.contains("the question `form` is open") && out.stderr.contains("--form yes"), "{}", out.stderr);
    let out = asked(&["--knowledge", "no"], "perhaps\n");
    assert_eq!(out.code, Some(2));
    assert!(out.stderr.contains("the answer to `form` is `perhaps`"), "{}", out.stderr);
    assert_eq!(asked(&["--form", "perhaps"], "").code, Some(2));
}

#[test]
fn a_menu_row_without_a_price_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["menu.jsonl", "menu-new.jsonl"] {
        std::fs::write(folder.path().join(name), "{\"name\":\"trà\"}").unwrap();
    }
    let out = ferrotune(&["compare", "--menu", folder.path().to_str().unwrap()]);
    assert_eq!(out.code, Some(2));
    assert!(out.stderr.contains("menu.jsonl") && out.stderr.contains("has no `price`"), "{}", out.stderr);
    assert!(!folder.path().join("runs").exists());
}
