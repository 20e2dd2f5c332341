//! `ferrotune merge`

use std::path::PathBuf;

use clap::ValueEnum;
use ferrotune::candle_core::{DType, Device};
use ferrotune::data::PromptFile;
use ferrotune::lora::peft;
use ferrotune::model::Pretrained;
use ferrotune::model::export::{self, Difference};
use ferrotune::show;
use serde_json::json;

use crate::failure::Failure;
use crate::{folder, opened, output, progress, units};

/// Add an adapter to the model's original weights and write the result as safetensors
///
/// Then both are asked to go on with three short texts, and the greatest difference of two logits is told: between the
/// base with its adapter and the merged model, and, where the adapter was trained beside 4-bit weights, between what was
/// trained and what was merged.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  ferrotune merge --model smollm2-135m --adapter runs/quick-start --out models/orders
  ferrotune merge --model hf:HuggingFaceTB/SmolLM2-135M-Instruct --adapter runs/a --out models/a --dtype f32 --json")]
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

    /// Most bytes in one file; a larger model becomes several, with an index
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = units::parse_bytes)]
    max_shard_size: u64,

    /// Skip the comparison of the result with base and adapter
    #[arg(long)]
    no_verify: bool,

    /// Print what the comparison found as JSON
    #[arg(long)]
    json: bool,
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
    let base = opened::open(&args.model)?;
    let adapter = peft::load(&args.adapter, &base.config.module_shapes(), &Device::Cpu)?;
    let trained = opened::trained_beside(&args.adapter)?;
    let bar = progress::bar(0, "merging");
    let advance = |done: usize, all: usize| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    };
    let written = export::write_merged(&base, &adapter, args.dtype.into(), args.max_shard_size, &args.out, advance);
    bar.finish_and_clear();
    written?;
    if let Some(prompt) = PromptFile::load(&args.adapter)? {
        prompt.save(&args.out)?;
    }
    let verification = if args.no_verify {
        None
    } else {
        let bar = progress::bar(0, "comparing with base and adapter");
        let verified = export::verify_merged(&base, &adapter, trained, &args.out, |done, all| {
            bar.set_length(all as u64);
            bar.set_position(done as u64);
        });
        bar.finish_and_clear();
        Some(verified?)
    };
    show::write_merged_card(&args.adapter, &args.out, verification.as_ref())?;

    if args.json {
        let difference = |d: &Difference| json!({"greatest": d.greatest, "largest_logit": d.largest_logit, "tokens": d.tokens, "same_next": d.same_next});
        let report = json!({
            "out": args.out,
            "merged": verification.as_ref().map(|v| difference(&v.merged)),
            "trained": verification.as_ref().and_then(|v| v.trained.as_ref()).map(difference),
        });
        return output::line(report);
    }
    output::line(args.out.display())?;
    if let Some(verification) = &verification {
        output::line(tell("base and adapter against the merged model", &verification.merged))?;
        if let Some(trained) = &verification.trained {
            output::line(tell("as it was trained, beside 4-bit weights, against the merged model", trained))?;
        }
    }
    warn_of_4_bits(&base, &args)
}

fn tell(what: &str, d: &Difference) -> String {
    format!(
        "{what}: logits differ by at most {:.2e} (the largest is {:.1}); the same next token after {} of {} tokens",
        d.greatest, d.largest_logit, d.same_next, d.tokens
    )
}

/// Says what a 4-bit base costs a merged model.
fn warn_of_4_bits(base: &Pretrained, args: &Args) -> Result<(), Failure> {
    if base.config.quantization.is_none() {
        return Ok(());
    }
    let size = |folder: &PathBuf| {
        let files = std::fs::read_dir(folder).map(|entries| entries.flatten().filter_map(|e| e.metadata().ok()));
        files.map_or(0, |files| files.map(|file| file.len()).sum::<u64>())
    };
    output::status(format!(
        "the base is stored in 4 bits: the merged model holds its rounded weights, in {} instead of {}, and the rounding \
         stays in it; merge into the 16-bit original to be rid of both",
        units::bytes(size(&args.out)),
        units::bytes(size(&base.path)),
    ));
    Ok(())
}
