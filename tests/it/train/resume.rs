//! Going on from a checkpoint: the same bytes as without a break, and whole checkpoints only.

use std::path::Path;

use ferrotune::Error;
use ferrotune::lora::LoraConfig;
use ferrotune::train::config::{Resume, Strategy};
use ferrotune::train::{Method, RunConfig, SftConfig};

use super::{Watcher, Workspace, metrics};

fn saving(work: &Workspace, name: &str, every: usize) -> RunConfig {
    let config = work.config(name);
    let sft = SftConfig { save_strategy: Strategy::Steps, save_steps: every, ..config.sft.clone() };
    RunConfig { sft, ..config }
}

fn adapter(run: &Path) -> Vec<u8> {
    std::fs::read(run.join("adapter_model.safetensors")).unwrap()
}

/// The rows of metrics.jsonl without what the clock and the memory say.
fn numbers(run: &Path) -> Vec<serde_json::Value> {
    let mut rows = metrics(run);
    for row in &mut rows {
        let row = row.as_object_mut().unwrap();
        row.remove("tokens_per_second");
        row.remove("peak_rss_bytes");
    }
    rows
}

/// With dropout, shuffling, packing and accumulation, stopped after any step.
#[test]
fn resumed_equals_uninterrupted() {
    let work = Workspace::new();
    work.train(work.config("whole"));
    let expected = (adapter(&work.path("whole")), numbers(&work.path("whole")));
    for stop_after in 1..6 {
        let name = format!("stopped-{stop_after}");
        let mut watcher = Watcher { stop_after: Some(stop_after), ..Watcher::default() };
        let saved = match work.watched(work.config(&name), &mut watcher) {
            Err(Error::Interrupted { saved }) => saved.unwrap(),
            other => panic!("{other:?}"),
        };
        assert_eq!(saved, work.path(&name).join(format!("checkpoint-{stop_after}")));
        assert!(!work.path(&name).join("adapter_model.safetensors").exists(), "an unfinished run has no result");
        let rest = work.train(work.config(&name));
        assert_eq!(rest.steps.first().map(|s| s.step), Some(stop_after + 1));
        assert_eq!((adapter(&work.path(&name)), numbers(&work.path(&name))), expected, "stopped after {stop_after}");
    }
}

/// The same of a prompt, of DoRA's magnitudes, and of noise on the embeddings.
#[test]
fn every_method_resumes() {
    let work = Workspace::new();
    let prompt = |name: &str| RunConfig { method: Method::PromptTuning, ..work.config(name) };
    let dora = |name: &str| {
        let (config, lora) = (work.config(name), LoraConfig { use_dora: true, ..LoraConfig::default() });
        let sft = SftConfig { neftune_noise_alpha: Some(5.0), loraplus_lr_ratio: Some(16.0), ..config.sft.clone() };
        RunConfig { lora, sft, ..config }
    };
    resumes(&work, "prompt", prompt);
    resumes(&work, "dora", dora);
}

fn resumes(work: &Workspace, kind: &str, config: impl Fn(&str) -> RunConfig) {
    let [whole, parts] = ["whole", "parts"].map(|part| format!("{kind}-{part}"));
    work.train(config(&whole));
    let mut watcher = Watcher { stop_after: Some(3), ..Watcher::default() };
    assert!(matches!(work.watched(config(&parts), &mut watcher), Err(Error::Interrupted { .. })));
    work.train(config(&parts));
    let result = |name: &str| (adapter(&work.path(name)), numbers(&work.path(name)));
    assert_eq!(result(&parts), result(&whole), "{kind}");
}

/// A checkpoint that lost a byte is passed over; rows after the older one are dropped, and come again.
#[test]
fn a_damaged_checkpoint_is_passed_over() {
    let work = Workspace::new();
    work.train(saving(&work, "run", 2));
    let expected = (adapter(&work.path("run")), numbers(&work.path("run")));
    for name in ["adapter_model.safetensors", "checkpoint-6"] {
        let path = work.path("run").join(name);
        if path.is_dir() { std::fs::remove_dir_all(path).unwrap() } else { std::fs::remove_file(path).unwrap() }
    }
    let optimizer = work.path("run/checkpoint-4/optimizer.safetensors");
    let bytes = std::fs::read(&optimizer).unwrap();
    std::fs::write(&optimizer, &bytes[..bytes.len() - 1]).unwrap();
    let rest = work.train(saving(&work, "run", 2));
    assert_eq!(rest.steps.first().map(|s| s.step), Some(3));
    assert_eq!((adapter(&work.path("run")), numbers(&work.path("run"))), expected);
}

#[test]
fn the_newest_checkpoints_are_kept() {
    let work = Workspace::new();
    let config = saving(&work, "run", 1);
    let sft = SftConfig { save_total_limit: 2, ..config.sft.clone() };
    work.train(RunConfig { sft, ..config });
    let names = |dir: &Path| {
        let entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = entries.filter(|n| n.contains("checkpoint") || n.starts_with('.')).collect();
        names.sort();
        names
    };
    assert_eq!(names(&work.path("run")), ["checkpoint-5", "checkpoint-6"]);
}

/// A finished run is gone on with for no further step, and its result stays.
#[test]
fn a_finished_run_stays_as_it_is() {
    let work = Workspace::new();
    work.train(saving(&work, "run", 3));
    let before = (adapter(&work.path("run")), metrics(&work.path("run")));
    let again = work.train(saving(&work, "run", 3));
    assert!(again.steps.is_empty());
    assert_eq!((adapter(&work.path("run")), metrics(&work.path("run"))), before);
}

#[test]
fn a_checkpoint_of_another_run_is_refused() {
    let work = Workspace::new();
    work.train(saving(&work, "run", 6));
    let config = work.config("other");
    let resume = Some(Resume::From(work.path("run/checkpoint-6")));
    let lora = ferrotune::lora::LoraConfig { r: 4, ..config.lora.clone() };
    let error = work.watched(RunConfig { lora, resume_from_checkpoint: resume, ..config }, &mut Watcher::default());
    let error = error.unwrap_err();
    assert!(error.is_input(), "{error}");
    assert!(error.to_string().contains("lora_A"), "{error}");
}
