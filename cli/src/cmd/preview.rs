//! `ferrotune preview`

use std::num::NonZeroUsize;

use ferrotune::data::{self, Span, Template, TokenizeOptions};
use ferrotune::hub;

use crate::failure::Failure;
use crate::{opened, output, progress, units};

/// Show the text that a run trains on, with the trained tokens marked
///
/// Trained tokens are coloured on a terminal and stand between ⟦ and ⟧ elsewhere.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  ferrotune preview --model smollm2-135m --data datasets/orders/train.jsonl
  ferrotune preview --model smollm2-135m --data train.jsonl --n 1 --completion-only-loss --max-length 512")]
pub(crate) struct Args {
    /// Model, for its tokenizer
    #[arg(long, value_name = "M")]
    model: String,

    /// Data: a .json or .jsonl file, or a folder of them
    #[arg(long, value_name = "D")]
    data: String,

    /// Examples shown
    #[arg(long, value_name = "N", default_value = "3")]
    n: NonZeroUsize,

    /// Text of an example: alpaca, or the model's own chat template (chat)
    #[arg(long, value_name = "TEXT", default_value = "alpaca", value_parser = ["alpaca", "chat"])]
    template: String,

    /// Tokens of an example; the rest is cut
    #[arg(long, value_name = "N", default_value = "1024")]
    max_length: NonZeroUsize,

    /// Train on the output only, not on the prompt
    #[arg(long)]
    completion_only_loss: bool,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let data = hub::resolve_data(&args.data, &mut progress::transfer())?;
    let mut records = data::load(&data)?;
    let all = records.len();
    records.truncate(args.n.get());
    let pretrained = opened::open(&args.model)?;
    let template = Template::for_model(&args.template, &pretrained)?;
    let options = TokenizeOptions {
        max_length: args.max_length.get(),
        completion_only_loss: args.completion_only_loss,
        eos_token_id: pretrained.eos_token_id()?,
        bos: pretrained.leading_bos(),
    };
    let tokenizer = pretrained.tokenizer()?;
    let tokenized = data::tokenize(&records, &template, tokenizer, &options).map_err(|e| e.in_file(&data))?;
    let colours = output::colours();
    for (i, example) in tokenized.examples.iter().enumerate() {
        let trained = example.trained.iter().filter(|trained| **trained).count();
        output::line(format!("-- example {} of {}: {} tokens, {trained} trained", i + 1, all, example.ids.len()))?;
        let spans = data::preview(example, tokenizer)?;
        output::line(spans.iter().map(|span| mark(span, colours)).collect::<String>())?;
    }
    let report = tokenized.report;
    if report.truncated > 0 {
        output::status(format!(
            "{} examples are longer than {} tokens and lost {} tokens; {} had nothing left to train",
            report.truncated,
            args.max_length,
            units::count(report.cut_tokens),
            report.dropped
        ));
    }
    Ok(())
}

fn mark(span: &Span, colours: bool) -> String {
    match (span.trained, colours) {
        (false, true) => format!("\x1b[2m{}\x1b[0m", span.text),
        (true, true) => format!("\x1b[1;32m{}\x1b[0m", span.text),
        (true, false) => format!("⟦{}⟧", span.text),
        (false, false) => span.text.clone(),
    }
}
