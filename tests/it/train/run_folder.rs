//! What a run leaves in its folder.

use ferrotune::data::PromptFile;
use ferrotune::model::{self, LoadOptions};
use ferrotune::train::config::Strategy;
use ferrotune::train::{Method, RunConfig, SftConfig};

use super::{Workspace, metrics};

#[test]
fn a_run_can_be_read_back() {
    let work = Workspace::new();
    let config = work.config("run");
    let data = work.path("data.jsonl").display().to_string();
    let sft = SftConfig { eval_strategy: Strategy::Steps, eval_steps: 3, ..config.sft.clone() };
    let config = RunConfig { eval_data: Some(data), sft, ..config };
    work.train(config.clone());

    let path = work.path("run/config.toml");
    assert_eq!(RunConfig::from_toml(&std::fs::read_to_string(&path).unwrap(), &path).unwrap(), config);
    let prompt = PromptFile { template: "alpaca".into(), instruction: Some("Upper case.".into()) };
    assert_eq!(PromptFile::load(&work.path("run")).unwrap(), Some(prompt));

    let rows = metrics(&work.path("run"));
    let (evals, steps): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.get("eval_loss").is_some());
    assert_eq!(evals.iter().map(|row| row["step"].as_u64().unwrap()).collect::<Vec<_>>(), [3, 6]);
    assert_eq!(steps.iter().map(|row| row["step"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    for row in steps {
        for key in ["epoch", "loss", "grad_norm", "learning_rate", "num_tokens", "tokens_per_second", "peak_rss_bytes"]
        {
            assert!(row[key].is_number(), "{key} in {row}");
        }
    }
}

/// What `method = "full"` leaves is a model that can be opened, with the trained weights.
#[test]
fn a_full_run_leaves_a_model() {
    let work = Workspace::new();
    work.train(RunConfig { method: Method::Full, ..work.config("run") });
    let options = LoadOptions::new(candle_core::Device::Cpu, candle_core::DType::F32);
    let load = |path| model::load(&model::open(path).unwrap(), &options, |_, _| {}).unwrap();
    let (before, after) = (load(&work.path("model")), load(&work.path("run")));
    let logits = |decoder: &model::Decoder| decoder.logits(&[5, 6, 7]).unwrap();
    let moved = (logits(&before) - logits(&after)).unwrap().abs().unwrap().max_all().unwrap();
    assert!(moved.to_scalar::<f32>().unwrap() > 1e-3);
    assert!(model::open(&work.path("run")).unwrap().tokenizer().is_ok());
}

/// Two runs of the same configuration are the same bytes; another seed is another run.
#[test]
fn a_seed_is_a_run() {
    let work = Workspace::new();
    let adapter = |name: &str, seed: u64| {
        work.train(RunConfig { seed, ..work.config(name) });
        std::fs::read(work.path(name).join("adapter_model.safetensors")).unwrap()
    };
    let first = adapter("a", 0);
    assert_eq!(first, adapter("b", 0));
    assert_ne!(first, adapter("c", 1));
}
