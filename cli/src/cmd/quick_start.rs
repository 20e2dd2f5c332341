//! `ferrotune` without a command: the quick start.

use std::path::Path;
use std::time::Instant;

use ferrotune::data::{self, Record};
use ferrotune::evaluate::{self, Evaluation, TaskScores};
use ferrotune::lora::LoraConfig;
use ferrotune::show::{self, Scores, Table};
use ferrotune::train::config::{SchedulerType, Strategy};
use ferrotune::train::observer::End;
use ferrotune::train::{self, RunConfig, Session, SftConfig};
use ferrotune::{device, files};
use serde::Serialize;

use crate::failure::Failure;
use crate::progress::Progress;
use crate::{answers, interrupt, output, training, units};

const TRAIN: &str = "datasets/orders/train.jsonl";
const TEST: &str = "datasets/orders/test.jsonl";
const RUN: &str = "runs/quick-start";
/// Held-out orders that are scored: the first of the test file, so that the table takes a minute and not five.
const SCORED: usize = 100;
/// Of which shown.
const SHOWN: usize = 5;
/// The longest expected answer of the scored orders has 67 tokens.
const MAX_NEW_TOKENS: usize = 80;
const BATCH_SIZE: usize = 50;

/// `report.json`.
#[derive(Serialize)]
struct Report {
    before: TaskScores,
    after: TaskScores,
    /// The whole of it, loading and both evaluations included.
    seconds: f64,
    train_seconds: f64,
    tokens_per_second: f64,
    peak_rss_bytes: u64,
    model: String,
    device: String,
}

/// The settings that the quick start trains with, written to its `config.toml` as any run's.
///
/// With LoRA+ (`loraplus_lr_ratio`) 500 steps do what takes some 870 where A and B learn at one rate.
fn settings() -> RunConfig {
    RunConfig {
        data: TRAIN.into(),
        output_dir: RUN.into(),
        lora: LoraConfig { lora_dropout: 0.0, ..LoraConfig::default() },
        sft: SftConfig {
            max_steps: Some(500),
            per_device_train_batch_size: 1,
            gradient_accumulation_steps: 1,
            learning_rate: 5e-4,
            loraplus_lr_ratio: Some(16.0),
            lr_scheduler_type: SchedulerType::Linear,
            adam_beta2: 0.98,
            max_grad_norm: 1.0,
            max_length: 256,
            completion_only_loss: true,
            gradient_checkpointing: false,
            eval_strategy: Strategy::No,
            ..SftConfig::default()
        },
        ..RunConfig::default()
    }
}

pub(crate) fn run() -> Result<(), Failure> {
    let begun = Instant::now();
    if !Path::new(TRAIN).exists() {
        let text = format!(
            "`{TRAIN}` is not here. Run `ferrotune` in the project's folder, or `ferrotune train` on data of your own."
        );
        return Err(Failure::Input(text));
    }
    let config = settings();
    config.check_output_dir()?;
    interrupt::listen()?;
    let mut test = data::load(Path::new(TEST))?;
    test.truncate(SCORED);
    let mut watcher = Progress::new(config.sft.logging_steps);
    let mut session = training::prepare(config, &mut watcher)?;

    output::line(format!("The base model answers the first {} of {SCORED} held-out orders:", SHOWN.min(test.len())))?;
    let before = score(&session, &test)?;
    for scored in before.examples.iter().take(SHOWN) {
        output::line(format!("\n  order   {}\n  answer  {}", test[scored.index].input, one_line(&scored.answer)))?;
    }
    output::line("")?;
    let end = train::run(&mut session, &mut watcher)?;
    let after = score(&session, &test)?;
    let report = Report {
        before: before.scores,
        after: after.scores,
        seconds: begun.elapsed().as_secs_f64(),
        train_seconds: end.train_seconds,
        tokens_per_second: end.tokens_per_second,
        peak_rss_bytes: device::peak_rss_bytes(),
        model: session.config.model.clone(),
        device: device::describe(session.decoder.device()),
    };
    let mut json = serde_json::to_string_pretty(&report).unwrap_or_default();
    json.push('\n');
    files::write_atomic(&Path::new(RUN).join("report.json"), json.as_bytes())?;
    let scores = Scores { before: before.scores, after: after.scores };
    show::write_results(&session, &watcher.start.unwrap_or_default(), &end, &["vi"], Some(scores))?;
    side_by_side(&test, &before, &after)?;
    summary(&report, &end)
}

/// Lets the model as it stands answer the held-out orders.
fn score(session: &Session, test: &[Record]) -> Result<Evaluation, Failure> {
    let config = evaluate::greedy(&session.pretrained, MAX_NEW_TOKENS, BATCH_SIZE);
    let evaluation = answers::answer(&session.decoder, &session.pretrained, &session.template, test, &config)?;
    if evaluation.interrupted {
        return Err(Failure::Interrupted(
            "interrupted while the model was answering. `ferrotune` goes on from here.".into(),
        ));
    }
    Ok(evaluation)
}

fn side_by_side(test: &[Record], before: &Evaluation, after: &Evaluation) -> Result<(), Failure> {
    output::line("The same orders before and after:")?;
    for (old, new) in before.examples.iter().zip(&after.examples).take(SHOWN) {
        let mark = if new.exact_match { "right" } else { "wrong" };
        output::line(format!("\n  order   {}", test[new.index].input))?;
        output::line(format!("  before  {}", one_line(&old.answer)))?;
        output::line(format!("  after   {}  ({mark})", one_line(&new.answer)))?;
    }
    Ok(())
}

fn summary(report: &Report, end: &End) -> Result<(), Failure> {
    let headers = ["", "exact match", "valid JSON", "orders"];
    let mut table = Table::new(headers).right(1).right(2).right(3);
    for (name, scores) in [("before", report.before), ("after", report.after)] {
        let rates = [scores.exact_match, scores.valid_json].map(units::percent);
        table.row([name.to_owned()].into_iter().chain(rates).chain([scores.n.to_string()]));
    }
    output::line(format!("\n{}", table.to_text()))?;
    output::line(format!(
        "{} in all; {} steps in {}, {:.0} tokens/s; at most {} of memory",
        units::seconds(report.seconds),
        end.total_steps,
        units::seconds(report.train_seconds),
        report.tokens_per_second,
        units::bytes(report.peak_rss_bytes)
    ))?;
    output::line(format!(
        "\nThe run is in `{RUN}`: the adapter, `loss.svg`, `metrics.jsonl`, `README.md`, `report.json`. Next:\n\n  \
         cargo run --release -- chat --adapter {RUN}\n  \
         cargo run --release -- train --data YOUR.jsonl --output-dir runs/yours\n"
    ))
}

/// The first part of an answer, on one line.
fn one_line(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(160) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}
