//! A run from the command line: what it leaves, and what a kill or Ctrl-C leaves.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::ferrotune_in;
use super::tiny;

const STEPS: usize = 24;

fn arguments(output: &str) -> Vec<String> {
    let steps = STEPS.to_string();
    let pairs = [
        ("--model", "model"),
        ("--data", "data.jsonl"),
        ("--output-dir", output),
        ("--max-steps", &steps),
        ("--save-strategy", "steps"),
        ("--save-steps", "2"),
        ("--eval-strategy", "no"),
        ("--logging-steps", "1"),
        ("--max-length", "128"),
    ];
    ["train"].into_iter().chain(pairs.iter().flat_map(|(flag, value)| [*flag, *value])).map(String::from).collect()
}

fn train(dir: &Path, output: &str) -> super::Outcome {
    let arguments = arguments(output);
    ferrotune_in(dir, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Starts a run and waits until it has told `steps` of its steps.
fn start(dir: &Path, output: &str, steps: usize) -> Child {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ferrotune"))
        .args(arguments(output))
        .current_dir(dir)
        .env_remove("RAYON_NUM_THREADS")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut told = 0;
    while told < steps {
        let line = lines.next().expect("the run goes on").unwrap();
        told += usize::from(line.starts_with("step "));
    }
    // The pipe stays open, so that the run can go on talking.
    std::thread::spawn(move || lines.for_each(drop));
    child
}

fn last_step(dir: &Path, output: &str) -> usize {
    let text = std::fs::read_to_string(dir.join(output).join("metrics.jsonl")).unwrap();
    let step = |line: &str| Some(serde_json::from_str::<serde_json::Value>(line).ok()?["step"].as_u64()? as usize);
    text.lines().filter_map(step).max().unwrap_or(0)
}

fn newest_checkpoint(dir: &Path, output: &str) -> usize {
    let entries = std::fs::read_dir(dir.join(output)).unwrap();
    let number = |name: String| name.strip_prefix("checkpoint-")?.parse().ok();
    entries.filter_map(|e| number(e.unwrap().file_name().into_string().unwrap())).max().unwrap_or(0)
}

fn adapter(dir: &Path, output: &str) -> Vec<u8> {
    std::fs::read(dir.join(output).join("adapter_model.safetensors")).unwrap()
}

#[test]
fn a_run_leaves_what_the_contract_says() {
    let work = tiny::workspace();
    let out = train(work.path(), "run");
    assert_eq!(out.code, Some(0), "{}", out.stderr);
    assert_eq!(out.stdout, "run\n");
    for name in [
        "adapter_model.safetensors",
        "adapter_config.json",
        "README.md",
        "metrics.jsonl",
        "loss.svg",
        "config.toml",
        "prompt.json",
        "checkpoint-24",
    ] {
        assert!(work.path().join("run").join(name).exists(), "{name}");
    }
    assert_eq!(last_step(work.path(), "run"), STEPS);
}

/// Killed at several moments: what was saved is whole, at most the steps since then are lost, and the end is the same.
#[test]
fn a_killed_run_loses_the_steps_since_its_checkpoint_at_most() {
    let work = tiny::workspace();
    let dir = work.path();
    assert_eq!(train(dir, "whole").code, Some(0));
    for steps in [1, 2, 3, 5, 8, 13] {
        let output = format!("killed-{steps}");
        let mut child = start(dir, &output, steps);
        child.kill().unwrap();
        child.wait().unwrap();
        let (done, saved) = (last_step(dir, &output), newest_checkpoint(dir, &output));
        assert!(done >= steps && done - saved <= 2, "{done} steps were done, {saved} saved");
        let out = train(dir, &output);
        assert_eq!(out.code, Some(0), "{}", out.stderr);
        if saved > 0 && saved < STEPS {
            assert!(out.stderr.contains(&format!("going on after step {saved}")), "{}", out.stderr);
        }
        assert!(adapter(dir, &output) == adapter(dir, "whole"), "killed after {done}: another result");
    }
}

/// Ctrl-C: exit code 130, a checkpoint of the last finished step, and the same end after going on.
#[test]
#[cfg(unix)]
fn an_interrupted_run_saves_its_last_step() {
    let work = tiny::workspace();
    let dir = work.path();
    assert_eq!(train(dir, "whole").code, Some(0));
    let mut child = start(dir, "stopped", 3);
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let code = child.wait().unwrap().code();
    if last_step(dir, "stopped") < STEPS {
        assert_eq!(code, Some(130));
        assert_eq!(newest_checkpoint(dir, "stopped"), last_step(dir, "stopped"));
    }
    assert_eq!(train(dir, "stopped").code, Some(0));
    assert!(adapter(dir, "stopped") == adapter(dir, "whole"));
}
