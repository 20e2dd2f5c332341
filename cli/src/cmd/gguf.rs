//! `ferrotune gguf`

use std::path::PathBuf;

use clap::ValueEnum;
use ferrotune::Error;
use ferrotune::model::export::{self, GgufType};

use crate::failure::Failure;
use crate::{opened, output, progress, units};

/// Write a model as a GGUF file for llama.cpp and what is built on it
#[derive(clap::Args)]
#[command(after_help = "\
The file has the weights, the tokenizer and the chat template. In q4_0 and q4_k the head, which is the embeddings where a
model has one matrix for both, is stored in 6 or 8 bits, as llama.cpp does it.

Examples:
  ferrotune gguf --model models/orders --out orders.gguf
  ferrotune gguf --model models/orders --out orders-q4.gguf --type q4_0")]
pub(crate) struct Args {
    /// Model: an alias (smollm2-135m), hf:org/name[@revision], a folder with safetensors, or a .gguf file
    #[arg(long, value_name = "M")]
    model: String,

    /// File to write; it must not be there yet
    #[arg(long, value_name = "F.gguf")]
    out: PathBuf,

    /// Type of the matrices
    #[arg(long = "type", value_name = "TYPE", value_enum, default_value_t = Type::F16)]
    kind: Type,
}

#[derive(Clone, Copy, ValueEnum)]
enum Type {
    F16,
    Bf16,
    #[value(name = "q8_0")]
    Q8_0,
    #[value(name = "q4_0")]
    Q4_0,
    #[value(name = "q4_k")]
    Q4K,
}

impl From<Type> for GgufType {
    fn from(kind: Type) -> Self {
        match kind {
            Type::F16 => Self::F16,
            Type::Bf16 => Self::Bf16,
            Type::Q8_0 => Self::Q8_0,
            Type::Q4_0 => Self::Q4_0,
            Type::Q4K => Self::Q4K,
        }
    }
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    if args.out.extension().is_none_or(|extension| extension != "gguf") {
        let what = format!("`{}` does not end in `.gguf`, by which programs know such a file", args.out.display());
        return Err(Error::config("flag `--out`", what, "Name the file `….gguf`.").into());
    }
    if args.out.exists() {
        let what = format!("`{}` is there already, and nothing is overwritten", args.out.display());
        return Err(Error::config("flag `--out`", what, "Name another file, or delete this one.").into());
    }
    let pretrained = opened::open(&args.model)?;
    let bar = progress::bar(0, "writing");
    let written = export::write_gguf(&pretrained, args.kind.into(), &args.out, |done, all| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    written?;
    let bytes = std::fs::metadata(&args.out).map(|file| file.len()).unwrap_or(0);
    output::status(format!("{} written", units::bytes(bytes)));
    output::line(args.out.display())
}
