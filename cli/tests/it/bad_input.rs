//! Bad input of every kind: the right exit code, one paragraph that says what, where and what to do, nothing on stdout,
//! and nothing changed on disk.
//!
//! Each row starts from the same good folder (see [`workspace`]), makes one mistake in it, and runs one command there.

mod adapter;
mod config;
mod data;
mod gguf;
mod run;
mod settings;
mod spoil;
mod tokenizer;
mod weights;
mod workspace;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::ferrotune_in;

/// One mistake.
struct Row {
    name: &'static str,
    /// Makes it, in a good folder.
    spoil: fn(&Path),
    args: Vec<&'static str>,
    code: i32,
    /// What the message must say.
    told: &'static [&'static str],
}

/// A mistake that is found before anything runs.
fn row(name: &'static str, spoil: fn(&Path), args: impl AsRef<[&'static str]>, told: &'static [&'static str]) -> Row {
    Row { name, spoil, args: args.as_ref().to_vec(), code: 2, told }
}

impl Row {
    /// The same with more arguments.
    fn with(mut self, more: &[&'static str]) -> Self {
        self.args.extend(more);
        self
    }

    /// The mistake shows only while running, when a new output folder may be there already.
    fn while_running(self) -> Self {
        Self { code: 1, ..self }
    }
}

const LOGITS: &[&str] = &["logits", "--model", "model", "--ids", "ids.json", "--out", "out.safetensors"];
const LOGITS_GGUF: &[&str] = &["logits", "--model", "tiny.gguf", "--ids", "ids.json", "--out", "out.safetensors"];
const ADAPTED: &[&str] =
    &["logits", "--model", "model", "--adapter", "adapter", "--ids", "ids.json", "--out", "out.safetensors"];
const TRAIN: &[&str] =
    &["train", "--model", "model", "--data", "data.jsonl", "--output-dir", "run", "--max-steps", "1"];
const GENERATE: &[&str] = &["generate", "--model", "model", "--max-new-tokens", "2"];
const PREVIEW: &[&str] = &["preview", "--model", "model", "--data", "data.jsonl"];
const EVAL: &[&str] = &["eval", "--model", "model", "--data", "data.jsonl", "--limit", "2", "--max-new-tokens", "2"];
const MERGE: &[&str] = &["merge", "--model", "model", "--adapter", "adapter", "--out", "merged"];
const QUANTIZE: &[&str] = &["quantize", "--model", "model", "--out", "quantized"];
const PLAN: &[&str] = &["plan", "--model", "model"];

/// Every file below `dir` with its bytes, and every folder.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut all = BTreeMap::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let bytes = if path.is_dir() {
                folders.push(path.clone());
                None
            } else {
                Some(fs::read(&path).unwrap())
            };
            all.insert(path, bytes);
        }
    }
    all
}

/// What is wrong with how the command takes the mistake; nothing if all is well.
fn complaints(row: &Row) -> Vec<String> {
    let folder = workspace::new();
    (row.spoil)(folder.path());
    let before = contents(folder.path());
    let out = ferrotune_in(folder.path(), &row.args);
    let mut after = contents(folder.path());
    if row.code == 1 {
        after.retain(|path, _| before.contains_key(path));
    }
    let mut wrong = Vec::new();
    if out.code != Some(row.code) {
        wrong.push(format!("exit code {:?}, not {}", out.code, row.code));
    }
    if !out.stdout.is_empty() {
        wrong.push(format!("stdout is `{}`", out.stdout));
    }
    // A run that began has told of its steps before.
    let told = match row.code {
        1 => out.stderr.rfind("error: ").map_or("", |at| &out.stderr[at..]),
        _ => out.stderr.as_str(),
    };
    let text = told.strip_prefix("error: ").and_then(|text| text.strip_suffix('\n'));
    if text.is_none_or(|text| text.contains('\n') || !text.ends_with('.') || text.contains(".. ")) {
        wrong.push("stderr is not one paragraph `error: … .`".into());
    }
    for word in ["panicked", "has a bug", "backtrace", "RUST_BACKTRACE"] {
        if out.stderr.contains(word) {
            wrong.push(format!("it crashed: `{word}`"));
        }
    }
    let missing = row.told.iter().filter(|words| !out.stderr.contains(**words));
    wrong.extend(missing.map(|words| format!("`{words}` is not told")));
    if after != before {
        let changed: Vec<_> = after
            .iter()
            .filter(|(p, b)| before.get(*p) != Some(b))
            .map(|(p, _)| p)
            .chain(before.keys().filter(|p| !after.contains_key(*p)))
            .collect();
        wrong.push(format!("changed on disk: {changed:?}"));
    }
    if !wrong.is_empty() {
        wrong.push(format!("stderr: {}", out.stderr.trim()));
    }
    wrong
}

#[test]
fn bad_input_is_refused_in_one_paragraph_and_changes_nothing() {
    let rows: Vec<Row> = [
        weights::rows(),
        gguf::rows(),
        config::rows(),
        tokenizer::rows(),
        data::rows(),
        settings::rows(),
        adapter::rows(),
        run::rows(),
    ]
    .into_iter()
    .flatten()
    .collect();
    let mut wrong = Vec::new();
    for row in &rows {
        let complaints = complaints(row);
        if !complaints.is_empty() {
            wrong.push(format!("{} ({})\n    {}", row.name, row.args.join(" "), complaints.join("\n    ")));
        }
    }
    assert!(wrong.is_empty(), "{} of {} rows\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}

/// The folder without a mistake is no error, so that each row fails for its mistake alone.
#[test]
fn the_good_folder_is_taken() {
    for args in [LOGITS, LOGITS_GGUF, ADAPTED, TRAIN, PREVIEW, EVAL, MERGE, QUANTIZE, PLAN] {
        let folder = workspace::new();
        let out = ferrotune_in(folder.path(), args);
        assert_eq!(out.code, Some(0), "{args:?}: {}", out.stderr);
    }
    let folder = workspace::new();
    for what in [["--prompt", "tea"], ["--prompts", "prompts.jsonl"]] {
        let out = ferrotune_in(folder.path(), &[GENERATE, &what].concat());
        assert_eq!(out.code, Some(0), "{what:?}: {}", out.stderr);
    }
}
