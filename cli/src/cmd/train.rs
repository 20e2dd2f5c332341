//! `ferrotune train`

use std::path::PathBuf;

use ferrotune::show;
use ferrotune::train::{self, RunConfig};

use crate::failure::Failure;
use crate::flags::ConfigFlags;
use crate::progress::Progress;
use crate::{interrupt, output, training};

/// Fine-tune a model
///
/// The run is described by a TOML file, by flags named as its keys, or by both; flags win. Ctrl-C saves a checkpoint of
/// the last finished step; the same command goes on from there.
///
/// A folder that holds a run is gone on with where its settings that shape the model and the data are the same, and
/// left as it is otherwise.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  ferrotune train --config orders.toml
  ferrotune train --config orders.toml --learning-rate 1e-4 --output-dir runs/slower
  ferrotune train --data train.jsonl --output-dir runs/a --target-modules q_proj,v_proj --max-steps 100")]
pub(crate) struct Args {
    /// Config file (TOML)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(flatten)]
    keys: ConfigFlags,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let config = RunConfig::assemble(args.config.as_deref(), &args.keys.0)?;
    config.validate()?;
    config.check_output_dir()?;
    interrupt::listen()?;
    let mut watcher = Progress::new(config.sft.logging_steps);
    let mut session = training::prepare(config, &mut watcher)?;
    let end = train::run(&mut session, &mut watcher)?;
    show::write_results(&session, &watcher.start.unwrap_or_default(), &end, &[], None)?;
    output::line(session.config.output_dir.display())
}
