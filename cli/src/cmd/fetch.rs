//! `ferrotune fetch`

use ferrotune::hub;

use crate::failure::Failure;
use crate::{output, progress};

/// Fetch a model or a data set into the cache and print its path
///
/// What is in the cache already is not sent again; a file that was cut off goes on where it was, and every file is held
/// against its hash. HF_TOKEN, HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE mean what they mean for huggingface_hub, whose cache
/// this is.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  ferrotune fetch smollm2-135m
  ferrotune fetch hf:HuggingFaceTB/SmolLM2-135M-Instruct
  ferrotune fetch hf:5CD-AI/Vietnamese-alpaca-gpt4-gg-translated:train")]
pub(crate) struct Args {
    /// An alias (smollm2-135m), hf:org/name[@revision], or hf:org/name[@revision]:split for data
    name: String,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let path = hub::fetch(&args.name, &mut progress::transfer())?;
    output::line(path.display())
}
