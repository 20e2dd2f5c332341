//! Whole runs of the trainer on a model of two small blocks.

mod equivalence;
mod experiments;
mod plan;
mod resume;
mod run_folder;

use std::path::{Path, PathBuf};

use candle_core::Device;
use ferrotune::Result;
use ferrotune::train::config::Strategy;
use ferrotune::train::observer::{End, StepMetrics};
use ferrotune::train::{Event, Inputs, Method, Observer, RunConfig, Session, SftConfig};
use serde_json::{Value, json};

/// A folder with a model, its tokenizer and data, which goes away with this value.
struct Workspace {
    root: tempfile::TempDir,
}

impl Workspace {
    /// The tiny Llama 3.2 of `tests/golden` with a tokenizer of one token a character, and 24 records.
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let model = root.path().join("model");
        std::fs::create_dir(&model).unwrap();
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny-llama-3.2");
        for name in ["config.json", "model.safetensors"] {
            std::fs::copy(golden.join(name), model.join(name)).unwrap();
        }
        std::fs::write(model.join("tokenizer.json"), tokenizer().to_string()).unwrap();
        std::fs::write(model.join("tokenizer_config.json"), json!({"eos_token": "</s>"}).to_string()).unwrap();
        let record = |i: usize| {
            let word = ["tea", "coffee", "milk", "water"][i % 4].repeat(1 + i % 3);
            json!({"instruction": "Upper case.", "input": word, "output": word.to_uppercase()}).to_string()
        };
        let lines: Vec<String> = (0..24).map(record).collect();
        std::fs::write(root.path().join("data.jsonl"), lines.join("\n")).unwrap();
        Self { root }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// A run of six steps into the folder `name`.
    fn config(&self, name: &str) -> RunConfig {
        RunConfig {
            model: self.path("model").display().to_string(),
            data: self.path("data.jsonl").display().to_string(),
            output_dir: self.path(name),
            method: Method::Lora,
            sft: SftConfig {
                max_steps: Some(6),
                per_device_train_batch_size: 2,
                gradient_accumulation_steps: 2,
                learning_rate: 5e-3,
                max_length: 128,
                eval_strategy: Strategy::No,
                save_strategy: Strategy::No,
                gradient_checkpointing: false,
                ..SftConfig::default()
            },
            ..RunConfig::default()
        }
    }

    fn session(&self, config: RunConfig) -> Result<Session> {
        let (model, data) = (self.path("model"), self.path("data.jsonl"));
        let inputs = Inputs {
            model: &model,
            base_model: "tiny",
            data: &data,
            eval_data: config.eval_data.as_deref().map(Path::new),
            device: Device::Cpu,
        };
        Session::prepare(config.clone(), &inputs, &mut (), |_, _| {})
    }

    /// Trains from beginning to end.
    fn train(&self, config: RunConfig) -> Watcher {
        let mut watcher = Watcher::default();
        self.watched(config, &mut watcher).unwrap();
        watcher
    }

    fn watched(&self, config: RunConfig, watcher: &mut Watcher) -> Result<End> {
        let mut session = self.session(config)?;
        ferrotune::train::run(&mut session, watcher)
    }
}

/// Remembers the steps, and asks to stop after `stop_after` of them.
#[derive(Default)]
struct Watcher {
    steps: Vec<StepMetrics>,
    stop_after: Option<usize>,
}

impl Observer for Watcher {
    fn event(&mut self, event: &Event) {
        if let Event::Step(step) = event {
            self.steps.push((*step).clone());
        }
    }

    fn cancelled(&self) -> bool {
        self.stop_after.is_some_and(|n| self.steps.len() >= n)
    }
}

/// One token for each printable ASCII character and the line end; ids 1 and 2 are `<s>` and `</s>`.
fn tokenizer() -> Value {
    let characters = (' '..='~').chain(['\n']).map(String::from);
    let tokens = ["<unk>", "<s>", "</s>"].map(str::to_owned).into_iter().chain(characters);
    let vocab: serde_json::Map<_, _> = tokens.enumerate().map(|(id, token)| (token, json!(id))).collect();
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": true})
    };
    json!({
        "version": "1.0",
        "added_tokens": [special(1, "<s>"), special(2, "</s>")],
        "decoder": {"type": "Fuse"},
        "model": {"type": "BPE", "vocab": vocab, "merges": [], "unk_token": "<unk>"},
    })
}

fn metrics(run: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Both within `relative` of each other.
fn assert_near(what: &str, a: f64, b: f64, relative: f64) {
    assert!((a - b).abs() <= relative * a.abs().max(b.abs()), "{what}: {a} and {b}");
}
