//! `ferrotune quantize`

use std::path::PathBuf;

use ferrotune::model::export;

use crate::failure::Failure;
use crate::{folder, opened, output, progress, units};

/// Write a model as a bitsandbytes NF4 checkpoint that transformers loads
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  ferrotune quantize --model smollm2-135m --out models/smollm2-nf4")]
pub(crate) struct Args {
    /// Model: an alias (smollm2-135m), hf:org/name[@revision], a folder with safetensors, or a .gguf file
    #[arg(long, value_name = "M")]
    model: String,

    /// Folder to write; it must be new or empty
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// Most bytes in one file; a larger model becomes several, with an index
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = units::parse_bytes)]
    max_shard_size: u64,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    folder::check_empty(&args.out)?;
    let pretrained = opened::open(&args.model)?;
    let bar = progress::bar(0, "quantizing");
    let written = export::write_quantized(&pretrained, opened::NF4, args.max_shard_size, &args.out, |done, all| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    written?;
    output::line(args.out.display())
}
