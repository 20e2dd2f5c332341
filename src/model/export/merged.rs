//! A model with an adapter merged into its weights.

use std::path::Path;

use candle_core::DType;

use super::checkpoint::{CheckpointWriter, Planned};
use super::{Pretrained, chunks, config_object, set_dtype, shape, write_companions};
use crate::lora::{Adapter, merge};
use crate::{Error, Result, files};

/// Writes the model with `adapter` merged in, in `dtype`, with config and tokenizer, into `directory`.
///
/// - `shard_bytes`: what a file holds at most; a model that takes more becomes several with an index
/// - `progress`: hears of each finished weight (number done, number in all)
///
/// Sums are in f32. A base in 4 bits is decoded.
///
/// Errors: [`Error::Config`] when the adapter belongs to another model; [`Error::Write`]; those of reading the weights.
pub fn write_merged(
    pretrained: &Pretrained,
    adapter: &Adapter,
    dtype: DType,
    shard_bytes: u64,
    directory: &Path,
    mut progress: impl FnMut(usize, usize),
) -> Result<()> {
    let names = pretrained.weights.names();
    if let Some(module) = adapter.layers.keys().find(|module| !names.contains(&format!("{module}.weight"))) {
        let what = format!("the adapter adapts `{module}`, which the model lacks");
        return Err(Error::config("", what, "Merge into the model that the adapter was trained on."));
    }
    let mut planned = Vec::with_capacity(names.len());
    for name in &names {
        let elements: usize = shape(pretrained, name)?.iter().product();
        planned.push(Planned { name: name.clone(), bytes: (elements * dtype.size_in_bytes()) as u64, tensors: 1 });
    }
    let mut writer = CheckpointWriter::create(directory, &planned, shard_bytes)?;
    for (i, name) in names.iter().enumerate() {
        let layer = adapter.layers.get(name.trim_end_matches(".weight"));
        writer.start(name, name, files::stored_type(dtype), &shape(pretrained, name)?)?;
        chunks(pretrained, name, |start, rows| {
            let merged = match layer {
                Some(layer) => merge::merged_rows(&rows, start, layer)?,
                None => rows,
            };
            writer.write(&files::little_endian(&merged.to_dtype(dtype)?)?.1)
        })?;
        progress(i + 1, names.len());
    }
    writer.finish()?;
    let mut config = config_object(pretrained);
    config.remove("quantization_config");
    set_dtype(&mut config, torch_name(dtype));
    write_companions(pretrained, config, directory)
}

fn torch_name(dtype: DType) -> &'static str {
    match dtype {
        DType::BF16 => "bfloat16",
        DType::F16 => "float16",
        _ => "float32",
    }
}
