//! A model with its linear weights in 4 bits, as bitsandbytes stores them.

use std::path::Path;

use candle_core::{DType, Device};
use serde_json::json;

use super::checkpoint::{CheckpointWriter, Planned};
use super::{Pretrained, chunks, config_object, set_dtype, shape, write_companions};
use crate::model::load::{BLOCKSIZE, Quantization};
use crate::model::names::LINEARS;
use crate::model::weights::check_finite;
use crate::quant::{QuantType, Quantized, state};
use crate::{Error, Result, files};

/// The most tensors that stand for one 4-bit weight, and the bytes of those that do not grow with it.
const STATE_TENSORS: usize = 6;
const STATE_BYTES: usize = 4096;

/// Writes the model with its linear weights in bitsandbytes' 4 bits, with config and tokenizer, into `directory`.
///
/// `shard_bytes` and `progress` are those of [`write_merged`](super::write_merged).
/// Errors: [`Error::Config`] for a format that bitsandbytes lacks or a model that is quantized already; [`Error::Write`].
pub fn write_quantized(
    pretrained: &Pretrained,
    quantization: Quantization,
    shard_bytes: u64,
    directory: &Path,
    mut progress: impl FnMut(usize, usize),
) -> Result<()> {
    let quant_type = match quantization.quant_type {
        QuantType::Nf4 => "nf4",
        QuantType::Fp4 => "fp4",
        QuantType::Int4 => {
            let what = "`int4` is not one of bitsandbytes' formats, so nothing could load the result";
            return Err(Error::config("", what, "Choose `nf4` or `fp4`."));
        }
    };
    if pretrained.config.quantization.is_some() {
        let what = format!("`{}` is quantized already", pretrained.path.display());
        return Err(Error::config("", what, "Quantize from the 16-bit model."));
    }
    let names = pretrained.weights.names();
    // A GGUF file's weights decode to f32; rounding what stays unquantized would change the model.
    let dtype_name = pretrained.config.dtype.clone().unwrap_or_else(|| "float32".into());
    let dtype = match dtype_name.as_str() {
        "bfloat16" => DType::BF16,
        "float16" => DType::F16,
        _ => DType::F32,
    };
    let mut planned = Vec::with_capacity(names.len());
    for name in &names {
        let elements: usize = shape(pretrained, name)?.iter().product();
        planned.push(match is_block_linear(name) {
            // A half byte an element; scales take no more than 4 bytes a block.
            true => {
                let bytes = elements / 2 + elements.div_ceil(BLOCKSIZE) * 4 + STATE_BYTES;
                Planned { name: name.clone(), bytes: bytes as u64, tensors: STATE_TENSORS }
            }
            false => Planned { name: name.clone(), bytes: (elements * dtype.size_in_bytes()) as u64, tensors: 1 },
        });
    }
    let mut writer = CheckpointWriter::create(directory, &planned, shard_bytes)?;
    for (i, name) in names.iter().enumerate() {
        if is_block_linear(name) {
            let weight = pretrained.weights.tensor(name, DType::F32, &Device::Cpu)?;
            check_finite(name, pretrained.weights.path(), &weight)?;
            let (out, input) = weight.dims2()?;
            let values = weight.flatten_all()?.to_vec1::<f32>()?;
            let mut quantized =
                Quantized::quantize(&values, [out, input], quantization.quant_type, BLOCKSIZE, quantization.double)?;
            quantized.dtype.clone_from(&dtype_name);
            for part in state::to_state_dict(name, &quantized)? {
                writer.start(name, &part.name, part.dtype, &part.shape)?;
                writer.write(&part.data)?;
            }
        } else {
            writer.start(name, name, files::stored_type(dtype), &shape(pretrained, name)?)?;
            chunks(pretrained, name, |_, rows| writer.write(&files::little_endian(&rows.to_dtype(dtype)?)?.1))?;
        }
        progress(i + 1, names.len());
    }
    writer.finish()?;
    let mut config = config_object(pretrained);
    set_dtype(&mut config, &dtype_name);
    config.insert(
        "quantization_config".into(),
        json!({
            "quant_method": "bitsandbytes",
            "_load_in_4bit": true,
            "_load_in_8bit": false,
            "load_in_4bit": true,
            "load_in_8bit": false,
            "bnb_4bit_quant_type": quant_type,
            "bnb_4bit_use_double_quant": quantization.double,
            "bnb_4bit_compute_dtype": dtype_name,
            "bnb_4bit_quant_storage": "uint8",
            "llm_int8_enable_fp32_cpu_offload": false,
            "llm_int8_has_fp16_weight": false,
            "llm_int8_skip_modules": ["lm_head"],
            "llm_int8_threshold": 6.0,
        }),
    );
    write_companions(pretrained, config, directory)
}

/// Whether a weight is one that bitsandbytes quantizes: a block's linear, not the embeddings or the head.
fn is_block_linear(name: &str) -> bool {
    LINEARS.iter().any(|(part, _)| name.ends_with(&format!(".{part}.weight")))
}
