//! The command `ferrotune`.

mod adapted;
mod answers;
mod cmd;
mod failure;
mod flags;
mod folder;
mod interrupt;
mod opened;
mod output;
mod progress;
mod training;
mod units;
mod usage;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ferrotune::device;

use failure::Failure;

/// Products read whole cache lines.
#[global_allocator]
static ALLOCATOR: ferrotune::ops::aligned::Aligned = ferrotune::ops::aligned::Aligned;

/// QLoRA fine-tuning of Llama-family models, in the ecosystem's own file formats.
///
/// Without a command it is the quick start: it fetches SmolLM2-135M-Instruct, fine-tunes it on `datasets/orders` and
/// shows the answers before and after. The run is `runs/quick-start`.
#[derive(Parser)]
#[command(
    name = "ferrotune",
    version,
    max_term_width = 100,
    after_help = "\
Exit codes: 0 done, 1 failed while running, 2 the input or the usage is wrong, 130 interrupted.

Examples:
  ferrotune                                   the quick start
  ferrotune train --config orders.toml
  ferrotune chat --adapter runs/quick-start
  ferrotune lab                               notebooks, in a clone of the repository"
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    Decide(cmd::decide::Args),
    Compare(cmd::compare::Args),
    Train(cmd::train::Args),
    Eval(cmd::eval::Args),
    Generate(cmd::generate::Args),
    Chat(cmd::chat::Args),
    Logits(cmd::logits::Args),
    Preview(cmd::preview::Args),
    Plan(cmd::plan::Args),
    Quantize(cmd::quantize::Args),
    Merge(cmd::merge::Args),
    Gguf(cmd::gguf::Args),
    Push(cmd::push::Args),
    Fetch(cmd::fetch::Args),
    Lab(cmd::lab::Args),
    Doctor(cmd::doctor::Args),
}

fn main() -> ExitCode {
    failure::report_panics();
    match Cli::try_parse() {
        Err(error) => usage::report(&error),
        Ok(cli) => match device::on_pool(|| run(cli.command)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => failure.report(),
        },
    }
}

fn run(command: Option<Command>) -> Result<(), Failure> {
    device::Isa::allowed()?;
    match command {
        None => cmd::quick_start::run(),
        Some(Command::Decide(args)) => cmd::decide::run(args),
        Some(Command::Compare(args)) => cmd::compare::run(args),
        Some(Command::Train(args)) => cmd::train::run(args),
        Some(Command::Eval(args)) => cmd::eval::run(args),
        Some(Command::Generate(args)) => cmd::generate::run(args),
        Some(Command::Chat(args)) => cmd::chat::run(args),
        Some(Command::Logits(args)) => cmd::logits::run(args),
        Some(Command::Preview(args)) => cmd::preview::run(args),
        Some(Command::Plan(args)) => cmd::plan::run(args),
        Some(Command::Quantize(args)) => cmd::quantize::run(args),
        Some(Command::Merge(args)) => cmd::merge::run(args),
        Some(Command::Gguf(args)) => cmd::gguf::run(args),
        Some(Command::Push(args)) => cmd::push::run(args),
        Some(Command::Fetch(args)) => cmd::fetch::run(args),
        Some(Command::Lab(args)) => cmd::lab::run(args),
        Some(Command::Doctor(args)) => cmd::doctor::run(args),
    }
}
