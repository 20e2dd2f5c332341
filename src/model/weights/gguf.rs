//! Weights and config from a GGUF file.
//!
//! llama.cpp's converter reorders the rows of each head of `q_proj` and `k_proj` from transformers' halves
//! (x₀…, x_{d/2}…) to pairs (x₀, x_{d/2}, x₁, …). Reading undoes that, so weights equal the original's layout.

use std::io::Cursor;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{TensorInfo, Value};
use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;
use serde_json::json;

use super::gguf_header::Header;
use super::{WeightSource, missing};
use crate::model::config::{FAMILIES, Family};
use crate::model::rope::{self, RopeScaling};
use crate::model::{Config, names};
use crate::ops::mmap;
use crate::quant::Quantized;
use crate::{Error, Result};

/// A GGUF file, memory-mapped, as a model.
pub struct Gguf {
    file: GgufFile,
    config: Config,
    permuted: bool,
}

impl Gguf {
    /// Opens a file and reads its header and config.
    ///
    /// Errors: [`Error::Read`]; [`Error::Format`] for a damaged header, another architecture or missing metadata.
    pub fn open(path: &Path) -> Result<Self> {
        let map = mmap::map(path)?;
        let file = GgufFile { path: path.into(), header: Header::parse(&map, path)?, map };
        let architecture = file.text("general.architecture")?.unwrap_or_default();
        let Some(family) = FAMILIES.iter().find(|f| f.gguf == architecture) else {
            let known: Vec<String> = FAMILIES.iter().map(|f| format!("`{}`", f.gguf)).collect();
            let what = format!("the architecture `{architecture}` is not supported, only {}", known.join(", "));
            return Err(file.refuse("general.architecture", what));
        };
        let config = Config::from_json(file.config_json(family)?, path)?;
        Ok(Self { file, config, permuted: family.gguf_permutes_qk })
    }

    /// The model's config; its `raw` is the `config.json` that the metadata stands for.
    pub fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn file(&self) -> &GgufFile {
        &self.file
    }

    /// How many heads the rows of a weight belong to that the file has in another order.
    fn permuted_heads(&self, name: &str) -> Option<usize> {
        match name.rsplit('.').nth(1) {
            Some("q_proj") if self.permuted => Some(self.config.num_attention_heads),
            Some("k_proj") if self.permuted => Some(self.config.num_key_value_heads),
            _ => None,
        }
    }
}

/// The mapped file with typed access to its metadata; every error names file and key.
pub(crate) struct GgufFile {
    path: PathBuf,
    map: Mmap,
    header: Header,
}

impl GgufFile {
    /// A metadata value by llama.cpp's key.
    pub(crate) fn metadata(&self, key: &str) -> Option<&Value> {
        self.header.metadata.get(key)
    }

    pub(crate) fn refuse(&self, key: &str, what: impl Into<String>) -> Error {
        let hint = "Use another file, or convert the model again with llama.cpp's `convert_hf_to_gguf.py`.";
        Error::format(&self.path, format!("key `{key}`"), what, hint)
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>> {
        match self.metadata(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.refuse(key, "the value is not a string")),
        }
    }

    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.metadata(key).map(|v| v.to_bool().map_err(|_| self.refuse(key, "the value is not a boolean"))).transpose()
    }

    pub(crate) fn unsigned(&self, key: &str) -> Result<Option<u64>> {
        let read = |v: &Value| match v {
            Value::I8(n) => u64::try_from(*n).ok(),
            Value::I16(n) => u64::try_from(*n).ok(),
            Value::I32(n) => u64::try_from(*n).ok(),
            Value::I64(n) => u64::try_from(*n).ok(),
            other => other.to_u64().ok(),
        };
        let wrong = || self.refuse(key, "the value is not a whole number of at least 0");
        self.metadata(key).map(|v| read(v).ok_or_else(wrong)).transpose()
    }

    /// Through decimal digits, so that an f32 `1e-5` is the f64 `1e-5` of the original's `config.json`.
    fn float(&self, key: &str) -> Result<Option<f64>> {
        match self.metadata(key) {
            None => Ok(None),
            Some(Value::F32(v)) => Ok(v.to_string().parse().ok()),
            Some(Value::F64(v)) => Ok(Some(*v)),
            Some(_) => Err(self.refuse(key, "the value is not a float")),
        }
    }

    pub(crate) fn array(&self, key: &str) -> Result<Option<&[Value]>> {
        match self.metadata(key) {
            None => Ok(None),
            Some(Value::Array(values)) => Ok(Some(values)),
            Some(_) => Err(self.refuse(key, "the value is not an array")),
        }
    }

    fn config_json(&self, family: &Family) -> Result<serde_json::Value> {
        let prefix = family.gguf;
        let key = |name: &str| format!("{prefix}.{name}");
        let need = |name: &str| {
            let key = key(name);
            self.unsigned(&key)?.ok_or_else(|| self.refuse(&key, "the key is missing"))
        };
        let Some(embedding) = self.header.tensors.get("token_embd.weight") else {
            return Err(missing("token_embd.weight", &self.path));
        };
        let (hidden, heads) = (need("embedding_length")?, need("attention.head_count")?);
        if heads == 0 {
            return Err(self.refuse(&key("attention.head_count"), "0 is not positive"));
        }
        let head_dim = self.unsigned(&key("attention.key_length"))?.unwrap_or(hidden / heads);
        let theta = self.float(&key("rope.freq_base"))?.unwrap_or(10_000.0);
        let mut config = json!({
            "architectures": [family.architectures[0]],
            "model_type": family.model_type,
            "vocab_size": embedding.shape.dims().first(),
            "hidden_size": hidden,
            "intermediate_size": need("feed_forward_length")?,
            "num_hidden_layers": need("block_count")?,
            "num_attention_heads": heads,
            "num_key_value_heads": self.unsigned(&key("attention.head_count_kv"))?.unwrap_or(heads),
            "head_dim": head_dim,
            "hidden_act": "silu",
            "rms_norm_eps": self.float(&key("attention.layer_norm_rms_epsilon"))?.unwrap_or(1e-5),
            "rope_theta": theta,
            "rope_scaling": self.rope_scaling(prefix, theta, head_dim as usize)?,
            "max_position_embeddings": need("context_length")?,
            "tie_word_embeddings": !self.header.tensors.contains_key("output.weight"),
            "attention_bias": false,
            "mlp_bias": false,
        });
        if self.unsigned(&key("rope.dimension_count"))?.is_some_and(|d| d != head_dim) {
            return Err(self.refuse(&key("rope.dimension_count"), "rotating a part of each head is not supported"));
        }
        for name in ["bos_token_id", "eos_token_id"] {
            if let Some(id) = self.unsigned(&format!("tokenizer.ggml.{name}"))? {
                config[name] = id.into();
            }
        }
        Ok(config)
    }

    /// The `rope_scaling` of `config.json`, or null.
    fn rope_scaling(&self, prefix: &str, theta: f64, head_dim: usize) -> Result<serde_json::Value> {
        if self.header.tensors.contains_key("rope_freqs.weight") {
            let divisors = self.decode(self.info("rope_freqs.weight")?)?.flatten_all()?.to_vec1::<f32>()?;
            let what = "the rotary divisors follow no known rule (Llama 3.1's)";
            let hint = "Use the model's safetensors instead.";
            return match rope::scaling_from_divisors(&divisors, theta, head_dim) {
                None => Err(Error::tensor("rope_freqs.weight", &self.path, what, hint)),
                Some(Some(RopeScaling::Llama3 {
                    factor,
                    low_freq_factor,
                    high_freq_factor,
                    original_max_position_embeddings,
                })) => Ok(json!({
                    "rope_type": "llama3",
                    "factor": factor,
                    "low_freq_factor": low_freq_factor,
                    "high_freq_factor": high_freq_factor,
                    "original_max_position_embeddings": original_max_position_embeddings,
                })),
                Some(_) => Ok(serde_json::Value::Null),
            };
        }
        let key = format!("{prefix}.rope.scaling.type");
        let old = self.float(&format!("{prefix}.rope.scale_linear"))?.filter(|f| *f != 1.0);
        match self.text(&key)? {
            None | Some("none") if old.is_none() => Ok(serde_json::Value::Null),
            None | Some("linear") => {
                let factor = self.float(&format!("{prefix}.rope.scaling.factor"))?.or(old);
                Ok(json!({ "rope_type": "linear", "factor": factor }))
            }
            Some(other) => Err(self.refuse(&key, format!("the scaling `{other}` is not supported"))),
        }
    }

    fn info(&self, gguf: &str) -> Result<&TensorInfo> {
        self.header.tensors.get(gguf).ok_or_else(|| missing(gguf, &self.path))
    }

    /// A tensor as f32 on the CPU, in the file's layout; its memory goes back to the system.
    fn decode(&self, info: &TensorInfo) -> Result<Tensor> {
        let quantized = info.read(&mut Cursor::new(&self.map[..]), self.header.data_offset, &Device::Cpu)?;
        let start = (self.header.data_offset + info.offset) as usize;
        mmap::release(&self.map, start..start + quantized.storage_size_in_bytes());
        Ok(quantized.dequantize(&Device::Cpu)?)
    }
}

impl WeightSource for Gguf {
    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.file.header.tensors.keys().filter_map(|n| names::from_gguf(n)).collect();
        names.sort();
        names
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        Some(self.file.header.tensors.get(&names::to_gguf(name)?)?.shape.dims().to_vec())
    }

    fn tensor(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let gguf = names::to_gguf(name).ok_or_else(|| missing(name, &self.file.path))?;
        let mut tensor = self.file.decode(self.file.info(&gguf)?)?;
        if let Some(heads) = self.permuted_heads(name) {
            let half = self.config.head_dim / 2;
            let (rows, columns) = tensor.dims2()?;
            if rows != heads * 2 * half {
                let what = format!("it has {rows} rows, and {heads} heads of {} need {}", 2 * half, heads * 2 * half);
                return Err(Error::tensor(gguf, &self.file.path, what, "The file is damaged; copy or fetch it again."));
            }
            tensor = tensor.reshape((heads, half, 2, columns))?.transpose(1, 2)?.reshape((rows, columns))?;
        }
        Ok(tensor.to_dtype(dtype)?.to_device(device)?)
    }

    fn rows(&self, name: &str, start: usize, count: usize) -> Result<Tensor> {
        let gguf = names::to_gguf(name).ok_or_else(|| missing(name, &self.file.path))?;
        let info = self.file.info(&gguf)?;
        let dims = info.shape.dims();
        let [rows, columns] = *dims else {
            return Ok(self.tensor(name, DType::F32, &Device::Cpu)?.narrow(0, start, count)?);
        };
        if self.permuted_heads(name).is_some() || start + count > rows {
            return Ok(self.tensor(name, DType::F32, &Device::Cpu)?.narrow(0, start, count)?);
        }
        let row_bytes = columns / info.ggml_dtype.block_size() * info.ggml_dtype.type_size();
        let offset = info.offset + (start * row_bytes) as u64;
        self.file.decode(&TensorInfo { ggml_dtype: info.ggml_dtype, shape: (count, columns).into(), offset })
    }

    fn quantized(&self, _name: &str) -> Result<Option<Quantized>> {
        Ok(None)
    }

    fn path(&self) -> &Path {
        &self.file.path
    }
}
