//! Whole models written for other programs: merged with an adapter, or quantized as bitsandbytes stores them.
//!
//! One tensor is in memory at a time, however large the model.

use super::load::{BLOCKSIZE, Quantization};
use super::names::LINEARS;
use super::pretrained::Pretrained;
use super::weights::check_finite;
use crate::lora::{Adapter, merge};
use crate::quant::{QuantType, Quantized, state};
use crate::{Error, Result, files};
use candle_core::{DType, Device, Tensor};
use safetensors::Dtype;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// The file of a model that is not sharded.
pub const MODEL_FILE: &str = "model.safetensors";

/// Writes the model with `adapter` merged in, in `dtype`, with config and tokenizer, into `directory`.
///
/// `progress` hears of each finished tensor (number done, number in all).
/// Errors: [`Error::Config`] when the adapter belongs to another model; [`Error::Write`]; those of reading the weights.
pub fn write_merged(
    pretrained: &Pretrained,
    adapter: &Adapter,
    dtype: DType,
    directory: &Path,
    mut progress: impl FnMut(usize, usize),
) -> Result<()> {
    let names = pretrained.weights.names();
    let mut writer = StreamWriter::create(directory.join(MODEL_FILE))?;
    let mut left: BTreeSet<&str> = adapter.layers.keys().map(String::as_str).collect();
    for (i, name) in names.iter().enumerate() {
        let weight = pretrained.weights.tensor(name, DType::F32, &Device::Cpu)?;
        check_finite(name, pretrained.weights.path(), &weight)?;
        let module = name.trim_end_matches(".weight");
        left.remove(module);
        let merged = match adapter.layers.get(module) {
            Some(layer) => merge::merged(&weight, layer, dtype)?,
            None => weight.to_dtype(dtype)?,
        };
        writer.tensor(name, &merged)?;
        progress(i + 1, names.len());
    }
    if let Some(module) = left.first() {
        let what = format!("the adapter adapts `{module}`, which the model lacks");
        return Err(Error::config("", what, "Merge into the model that the adapter was trained on."));
    }
    writer.finish()?;
    let mut config = config_object(pretrained);
    config.remove("quantization_config");
    set_dtype(&mut config, torch_name(dtype));
    write_companions(pretrained, config, directory)
}

/// Writes the model with its linear weights in bitsandbytes' 4 bits, with config and tokenizer, into `directory`.
///
/// Errors: [`Error::Config`] for a format that bitsandbytes lacks or a model that is quantized already; [`Error::Write`].
pub fn write_quantized(
    pretrained: &Pretrained,
    quantization: Quantization,
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
    let mut writer = StreamWriter::create(directory.join(MODEL_FILE))?;
    for (i, name) in names.iter().enumerate() {
        let weight = pretrained.weights.tensor(name, DType::F32, &Device::Cpu)?;
        check_finite(name, pretrained.weights.path(), &weight)?;
        if is_block_linear(name) {
            let (out, input) = weight.dims2()?;
            let values = weight.flatten_all()?.to_vec1::<f32>()?;
            let mut quantized =
                Quantized::quantize(&values, [out, input], quantization.quant_type, BLOCKSIZE, quantization.double)?;
            quantized.dtype.clone_from(&dtype_name);
            for part in state::to_state_dict(name, &quantized)? {
                writer.bytes(&part.name, part.dtype, &part.shape, &part.data)?;
            }
        } else {
            writer.tensor(name, &weight.to_dtype(dtype)?)?;
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

/// Config, tokenizer and chat template, as transformers names them.
///
/// Files of a model that was a directory are copied; those of a GGUF file are made from its metadata.
pub fn write_companions(pretrained: &Pretrained, config: Map<String, Value>, directory: &Path) -> Result<()> {
    files::create_directory(directory)?;
    let json = |name: &str, value: &Value| {
        let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
        text.push('\n');
        files::write_atomic(&directory.join(name), text.as_bytes())
    };
    json("config.json", &Value::Object(config))?;
    let copied = [
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "generation_config.json",
        "chat_template.jinja",
    ];
    for name in copied {
        let source = pretrained.path.join(name);
        if source.is_file() {
            files::write_atomic(&directory.join(name), &files::read(&source)?)?;
        }
    }
    if pretrained.path.is_dir() {
        return Ok(());
    }
    let tokenizer = pretrained.tokenizer()?;
    let text = tokenizer.to_string(true).map_err(|e| Error::Shape { op: "tokenizer", what: e.to_string() })?;
    files::write_atomic(&directory.join("tokenizer.json"), text.as_bytes())?;
    let token = |id: Option<u32>| id.and_then(|id| tokenizer.id_to_token(id));
    let eos = pretrained.eos_token_ids.first().copied();
    json(
        "tokenizer_config.json",
        &json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": token(pretrained.bos_token_id),
            "eos_token": token(eos),
            "chat_template": pretrained.chat_template,
            "clean_up_tokenization_spaces": false,
        }),
    )?;
    json(
        "generation_config.json",
        &json!({"bos_token_id": pretrained.bos_token_id, "eos_token_id": pretrained.eos_token_ids}),
    )
}

/// `config.json` as it was read, or as GGUF metadata gave it.
pub fn config_object(pretrained: &Pretrained) -> Map<String, Value> {
    pretrained.config.raw.as_object().cloned().unwrap_or_default()
}

/// Names the type of the weights, under the key that the config has for it.
pub fn set_dtype(config: &mut Map<String, Value>, name: &str) {
    let key = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
    config.insert(key.into(), json!(name));
}

fn torch_name(dtype: DType) -> &'static str {
    match dtype {
        DType::BF16 => "bfloat16",
        DType::F16 => "float16",
        _ => "float32",
    }
}

/// Writes a safetensors file tensor by tensor: the data to a file of its own, since the header, which comes first, is
/// known last.
struct StreamWriter {
    path: PathBuf,
    /// Folders that were made for it, the innermost first.
    made: Vec<PathBuf>,
    data_path: PathBuf,
    data: BufWriter<File>,
    header: Map<String, Value>,
    length: usize,
}

impl StreamWriter {
    fn create(path: PathBuf) -> Result<Self> {
        let directory = path.parent().unwrap_or(Path::new("."));
        let made = directory.ancestors().take_while(|d| !d.as_os_str().is_empty() && !d.exists());
        let made = made.map(Path::to_path_buf).collect();
        files::create_directory(directory)?;
        let data_path = directory.join(format!(".{MODEL_FILE}.data-{}", std::process::id()));
        let file = File::create(&data_path).map_err(|e| Error::write(&data_path, e))?;
        let header = Map::from_iter([("__metadata__".to_string(), json!({"format": "pt"}))]);
        Ok(Self { path, made, data_path, data: BufWriter::new(file), header, length: 0 })
    }

    fn tensor(&mut self, name: &str, tensor: &Tensor) -> Result<()> {
        let (dtype, bytes) = files::little_endian(tensor)?;
        self.bytes(name, dtype, tensor.dims(), &bytes)
    }

    fn bytes(&mut self, name: &str, dtype: Dtype, shape: &[usize], bytes: &[u8]) -> Result<()> {
        self.data.write_all(bytes).map_err(|e| Error::write(&self.path, e))?;
        let end = self.length + bytes.len();
        let entry = json!({"dtype": format!("{dtype:?}"), "shape": shape, "data_offsets": [self.length, end]});
        self.header.insert(name.to_string(), entry);
        self.length = end;
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        let written = (|| {
            self.data.flush()?;
            let mut header = Value::Object(std::mem::take(&mut self.header)).to_string();
            // The format aligns the data to 8 bytes, with spaces after the header.
            while !header.len().is_multiple_of(8) {
                header.push(' ');
            }
            let temporary = self.data_path.with_extension("tmp");
            let mut file = BufWriter::new(File::create(&temporary)?);
            file.write_all(&(header.len() as u64).to_le_bytes())?;
            file.write_all(header.as_bytes())?;
            std::io::copy(&mut File::open(&self.data_path)?, &mut file)?;
            file.flush()?;
            file.get_ref().sync_all()?;
            fs::rename(&temporary, &self.path)
        })();
        written.map_err(|e| Error::write(&self.path, e))
    }
}

impl Drop for StreamWriter {
    fn drop(&mut self) {
        // Scratch of this process; whatever keeps it from going away was reported by the write that failed.
        let _ = fs::remove_file(&self.data_path);
        // A folder with the finished model in it is not empty, and stays.
        let _ = self.made.iter().try_for_each(fs::remove_dir);
    }
}
