//! `ferrotune fetch`

use ferrotune::hub;

use crate::failure::Failure;
use crate::output;

/// Fetch a model or a data set into the cache and print its path
///
/// HF_TOKEN, HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE mean what they mean for huggingface_hub.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  ferrotune fetch smollm2-135m
  ferrotune fetch hf:HuggingFaceTB/SmolLM2-135M-Instruct")]
pub(crate) struct Args {
    /// An alias (smollm2-135m) or hf:org/name[@revision]
    name: String,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let path = hub::resolve_with(&args.name, &mut |note| output::status(note))?;
    output::line(path.display())
}
