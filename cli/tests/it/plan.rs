//! `ferrotune plan --measure`: the plan of each method beside what a process takes.

use std::path::Path;

use serde_json::Value;

use super::{ferrotune_in, tiny};

/// The 135M model: a small one would drown in what a process takes by itself. Each is measured in a process of its own.
#[test]
#[cfg(target_os = "linux")]
fn the_plan_of_every_method_is_within_a_tenth_of_what_is_measured() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let model = ferrotune::hub::resolve("smollm2-135m").unwrap().display().to_string();
    for method in ["full", "lora", "qlora", "prompt-tuning"] {
        let args = ["plan", "--model", &model, "--data", "datasets/orders/train.jsonl", "--method", method];
        let sizes = ["--per-device-train-batch-size", "1", "--gradient-accumulation-steps", "1", "--max-length", "256"];
        let checkpointing = ["--gradient-checkpointing", "false", "--measure", "--json"];
        let out = ferrotune_in(&root, &[&args[..], &sizes, &checkpointing].concat());
        assert_eq!(out.code, Some(0), "{}", out.stderr);
        let told: Value = serde_json::from_str(&out.stdout).unwrap();
        let (planned, measured) = (told["memory"]["total"].as_f64().unwrap(), told["measured"].as_f64().unwrap());
        let off = measured / planned - 1.0;
        assert!(off.abs() < 0.1, "{method}: {:.0} MB planned, {:.0} MB measured", planned / 1e6, measured / 1e6);
    }
}

#[test]
fn measuring_leaves_no_run_and_needs_data() {
    let work = tiny::workspace();
    let plan = ["plan", "--model", "model", "--max-length", "64", "--output-dir", "run", "--measure"];
    let out = ferrotune_in(work.path(), &[&plan[..], &["--data", "data.jsonl"]].concat());
    assert_eq!(out.code, Some(0), "{}", out.stderr);
    assert!(out.stdout.contains("measured"), "{}", out.stdout);
    assert!(!work.path().join("run").exists());
    let out = ferrotune_in(work.path(), &plan);
    assert_eq!(out.code, Some(2), "{}", out.stdout);
    assert!(out.stderr.contains("data"), "{}", out.stderr);
}
