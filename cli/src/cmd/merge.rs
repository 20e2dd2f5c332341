//! `ferrotune merge`

use std::path::PathBuf;

use clap::ValueEnum;
use ferrotune::candle_core::{DType, Device};
use ferrotune::lora::{ModuleShape, peft};
use ferrotune::model::export;

use crate::failure::Failure;
use crate::{folder, opened, output, progress};

/// Add an adapter to the model's original weights and write the result as safetensors
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  ferrotune merge --model smollm2-135m --adapter runs/quick-start --out models/orders
  ferrotune merge --model hf:HuggingFaceTB/SmolLM2-135M-Instruct --adapter runs/a --out models/a --dtype f32")]
pub(crate) struct Args {
    /// Base model: an alias (smollm2-135m), hf:org/name[@revision], a folder with safetensors, or a .gguf file
    #[arg(long, value_name = "M")]
    model: String,

    /// PEFT adapter's folder, such as a run's
    #[arg(long, value_name = "A")]
    adapter: PathBuf,

    /// Folder to write; it must be new or empty
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// Type of the written weights
    #[arg(long, value_name = "TYPE", value_enum, default_value_t = Type::Bf16)]
    dtype: Type,
}

#[derive(Clone, Copy, ValueEnum)]
enum Type {
    F32,
    Bf16,
    F16,
}

impl From<Type> for DType {
    fn from(dtype: Type) -> Self {
        match dtype {
            Type::F32 => Self::F32,
            Type::Bf16 => Self::BF16,
            Type::F16 => Self::F16,
        }
    }
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    folder::check_empty(&args.out)?;
    let pretrained = opened::open(&args.model)?;
    let modules: Vec<ModuleShape> = pretrained.config.module_shapes();
    let adapter = peft::load(&args.adapter, &modules, &Device::Cpu)?;
    let bar = progress::bar(0, "merging");
    let written = export::write_merged(&pretrained, &adapter, args.dtype.into(), &args.out, |done, all| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    written?;
    output::line(args.out.display())
}
