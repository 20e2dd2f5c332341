//! `ferrotune eval`

use std::num::NonZeroUsize;

use ferrotune::data::{self, Record, TokenizeOptions};
use ferrotune::evaluate::TaskScores;
use ferrotune::train::evaluation::evaluation_loss;
use ferrotune::{Error, evaluate, hub};
use serde::Serialize;

use crate::adapted::ModelArgs;
use crate::failure::Failure;
use crate::opened::{Opened, Precision};
use crate::{answers, interrupt, output, progress, units};

/// Score a model's answers on held-out data: exact match, valid JSON, loss
///
/// Answers are decoded greedily from each record's prompt and compared with its output.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  ferrotune eval --model smollm2-135m --data datasets/orders/test.jsonl --limit 100
  ferrotune eval --adapter runs/quick-start --load-in-4bit --data datasets/orders/test.jsonl --json")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,

    /// Data: a .json or .jsonl file, or a folder of them
    #[arg(long, value_name = "D")]
    data: String,

    /// Score the first N records only
    #[arg(long, value_name = "N")]
    limit: Option<NonZeroUsize>,

    /// Most tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 256)]
    max_new_tokens: usize,

    /// Answers decoded at a time
    #[arg(long, value_name = "N", default_value = "16")]
    batch_size: NonZeroUsize,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let data = hub::resolve_data(&args.data, &mut progress::transfer())?;
    let mut records = data::load(&data)?;
    if let Some(limit) = args.limit {
        records.truncate(limit.get());
    }
    interrupt::listen()?;
    let opened = args.model.open(Precision::Fast)?;
    let config = evaluate::greedy(&opened.pretrained, args.max_new_tokens, args.batch_size.get());
    let template = opened.record_template()?;
    let evaluation = answers::answer(&opened.decoder, &opened.pretrained, &template, &records, &config);
    let mut evaluation = evaluation.map_err(|e| e.in_file(&data))?;
    if !evaluation.interrupted {
        evaluation.scores.eval_loss = Some(loss(&opened, &records).map_err(|e| e.in_file(&data))?);
    }
    let scores = evaluation.scores;
    let interval = evaluate::wilson((scores.exact_match * scores.n as f64).round() as usize, scores.n);
    if args.json {
        output::json(&Scores { scores, exact_match_interval: interval })?;
    } else {
        let loss = scores.eval_loss.map(|loss| format!("  eval loss {loss:.4}")).unwrap_or_default();
        output::line(format!(
            "exact match {} ({} to {} at 95% confidence)  valid JSON {}  of {} records{loss}",
            units::percent(scores.exact_match),
            units::percent(interval.0),
            units::percent(interval.1),
            units::percent(scores.valid_json),
            scores.n
        ))?;
        for failure in evaluation.failures().take(3) {
            output::line(format!("\nrecord {}\n  expected  {}", failure.index + 1, failure.expected.trim()))?;
            output::line(format!("  answered  {}", failure.answer.trim()))?;
        }
    }
    if evaluation.interrupted {
        return Err(Failure::Interrupted(format!("interrupted after {} of {} records", scores.n, records.len())));
    }
    Ok(())
}

/// What `--json` prints.
#[derive(Serialize)]
struct Scores {
    #[serde(flatten)]
    scores: TaskScores,
    /// At 95% confidence.
    exact_match_interval: (f64, f64),
}

/// The mean loss over the tokens of the expected answers, each with its end of sequence.
fn loss(opened: &Opened, records: &[Record]) -> Result<f64, Error> {
    let pretrained = &opened.pretrained;
    let eos = pretrained.eos_token_id()?;
    let options = TokenizeOptions {
        max_length: pretrained.config.max_position_embeddings,
        completion_only_loss: true,
        eos_token_id: eos,
        bos: pretrained.leading_bos(),
    };
    let tokenized = data::tokenize(records, &opened.record_template()?, pretrained.tokenizer()?, &options)?;
    tokenized.check(pretrained.config.vocab_size, eos)?;
    let output = evaluation_loss(&opened.decoder, &tokenized.examples, 2048, &|| false)?;
    Ok(output.map_or(f64::NAN, |o| o.loss_sum / o.count.max(1) as f64))
}
