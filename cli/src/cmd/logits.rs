//! `ferrotune logits`

use std::path::{Path, PathBuf};

use crate::adapted::ModelArgs;
use ferrotune::candle_core::Tensor;
use ferrotune::{Error, files};

use crate::failure::Failure;
use crate::opened::Precision;

/// Write a model's logits for given token ids, to compare with other implementations
///
/// The output holds the tensors `logits.0`, `logits.1`, … in f32, one for each sequence, of shape [sequence, vocab].
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  ferrotune logits --model smollm2-135m --ids ids.json --out logits.safetensors")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,

    /// Token ids: [[int, …], …]
    #[arg(long, value_name = "F.json")]
    ids: PathBuf,

    /// File to write
    #[arg(long, value_name = "F.safetensors")]
    out: PathBuf,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let sequences = read_ids(&args.ids)?;
    let opened = args.model.open(Precision::Full)?;
    let mut logits: Vec<(String, Tensor)> = Vec::with_capacity(sequences.len());
    for (i, ids) in sequences.iter().enumerate() {
        let tensor = opened.decoder.logits(ids).map_err(|error| match error {
            Error::Data { what, hint, .. } => {
                Error::data(format!("sequence {} of `{}`", i + 1, args.ids.display()), what, hint)
            }
            other => other,
        })?;
        logits.push((format!("logits.{i}"), tensor));
    }
    files::write_safetensors(&args.out, logits.into_iter().map(|(name, tensor)| (name, tensor.into())))?;
    Ok(())
}

fn read_ids(path: &Path) -> Result<Vec<Vec<u32>>, Error> {
    let hint = "Write a list of sequences of token ids, such as [[1, 2, 3]].";
    let sequences: Vec<Vec<u32>> = serde_json::from_slice(&files::read(path)?).map_err(|e| {
        let place = format!("line {}, column {}", e.line(), e.column());
        Error::format(path, place, format!("not a list of lists of ids ({e})"), hint)
    })?;
    if sequences.is_empty() {
        return Err(Error::format(path, "", "there is no sequence in it", hint));
    }
    Ok(sequences)
}
