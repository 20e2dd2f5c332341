//! A model's shape, from Hugging Face's `config.json` or a GGUF file's metadata.
//!
//! [`FAMILIES`] maps an architecture to the function that reads its config. A family whose arithmetic is Llama's is one row.
//! GGUF metadata is first written as the `config.json` it stands for ([`super::weights::gguf`]), so there is one reader.

use std::path::Path;

use serde_json::{Map, Value};

use crate::lora::ModuleShape;
use crate::model::names::LINEARS;
use crate::model::rope::RopeScaling;
use crate::quant::QuantType;
use crate::{Error, Result, files};

/// The shape and constants of a decoder, in the names of `config.json`.
#[derive(Clone, Debug)]
pub struct Config {
    /// The class in transformers, such as `LlamaForCausalLM`.
    pub architecture: String,
    pub model_type: String,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    /// Divides `num_attention_heads`.
    pub num_key_value_heads: usize,
    /// Even; `hidden_size / num_attention_heads` unless the file says otherwise.
    pub head_dim: usize,
    /// In units of the squared activation.
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
    pub rope_scaling: Option<RopeScaling>,
    /// Whether the output projection is the embedding matrix.
    pub tie_word_embeddings: bool,
    /// In tokens.
    pub max_position_embeddings: usize,
    pub bos_token_id: Option<u32>,
    pub eos_token_ids: Vec<u32>,
    /// The type that the weights were saved in, by torch's name (`bfloat16`).
    pub dtype: Option<String>,
    /// Set when the linear weights are stored in 4 bits by bitsandbytes.
    pub quantization: Option<StoredQuantization>,
    /// The whole `config.json`, with the keys that are not read here.
    pub raw: Value,
}

/// bitsandbytes' 4-bit settings, from `quantization_config`.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredQuantization {
    pub quant_type: QuantType,
    pub double: bool,
}

/// One row per family of models.
pub struct Family {
    /// Class names in `config.json`'s `architectures`.
    pub architectures: &'static [&'static str],
    /// `config.json`'s `model_type`, used where `architectures` is missing.
    pub model_type: &'static str,
    /// `general.architecture` of GGUF files.
    pub gguf: &'static str,
    /// Whether llama.cpp's converter reorders the rows of `q_proj` and `k_proj`.
    pub gguf_permutes_qk: bool,
    read: fn(&Keys) -> Result<Config>,
}

/// Every family that can be loaded.
pub const FAMILIES: &[Family] = &[Family {
    architectures: &["LlamaForCausalLM"],
    model_type: "llama",
    gguf: "llama",
    gguf_permutes_qk: true,
    read: llama,
}];

impl Config {
    /// The linear modules of the blocks, in order.
    pub fn module_shapes(&self) -> Vec<ModuleShape> {
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        let (q, kv) = (self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim);
        let shape = |layer: usize, path: &str, name: &str| {
            let (in_features, out_features) = match name {
                "q_proj" => (hidden, q),
                "k_proj" | "v_proj" => (hidden, kv),
                "o_proj" => (q, hidden),
                "down_proj" => (inner, hidden),
                _ => (hidden, inner),
            };
            ModuleShape { name: format!("model.layers.{layer}.{path}"), in_features, out_features }
        };
        let layers = 0..self.num_hidden_layers;
        layers.flat_map(|layer| LINEARS.map(|(path, name)| shape(layer, path, name))).collect()
    }

    /// Reads a `config.json`.
    ///
    /// Errors: [`Error::Read`]; [`Error::Format`] with the key that is missing, of the wrong type or not supported.
    pub fn from_file(path: &Path) -> Result<Self> {
        let raw = serde_json::from_slice(&files::read(path)?).map_err(|e| {
            let place = format!("line {}", e.line());
            Error::format(path, place, format!("this is not valid JSON ({e})"), "Copy the file from the model again.")
        })?;
        Self::from_json(raw, path)
    }

    /// Reads the content of a `config.json`; `path` is named in errors.
    pub fn from_json(raw: Value, path: &Path) -> Result<Self> {
        let Value::Object(map) = &raw else {
            return Err(Error::format(path, "", "this is not a JSON object", "Copy the file from the model again."));
        };
        let keys = Keys { path, map };
        let mut config = (keys.family()?.read)(&keys)?;
        config.check(path)?;
        config.raw = raw;
        Ok(config)
    }

    fn check(&self, path: &Path) -> Result<()> {
        let fail = |key: &str, what: String| {
            Err(Error::format(path, format!("key `{key}`"), what, "Copy the file from the model again."))
        };
        let (heads, kv) = (self.num_attention_heads, self.num_key_value_heads);
        if !heads.is_multiple_of(kv) {
            return fail("num_key_value_heads", format!("{heads} attention heads do not divide into {kv} groups"));
        }
        if !self.head_dim.is_multiple_of(2) {
            return fail("head_dim", format!("{} is odd, and rotary positions turn pairs", self.head_dim));
        }
        if self.rms_norm_eps <= 0.0 {
            return fail("rms_norm_eps", format!("{} is not positive", self.rms_norm_eps));
        }
        if self.rope_theta <= 0.0 {
            return fail("rope_theta", format!("{} is not positive", self.rope_theta));
        }
        Ok(())
    }
}

/// Llama 2, 3, 3.1, 3.2 and SmolLM2. Source: transformers `LlamaConfig`, whose defaults hold for absent keys.
fn llama(keys: &Keys) -> Result<Config> {
    for key in ["attention_bias", "mlp_bias"] {
        if keys.flag(key)?.unwrap_or(false) {
            return Err(keys.refuse(key, "biases in the linear layers are not supported"));
        }
    }
    if let Some(act) = keys.text("hidden_act")?.filter(|a| *a != "silu") {
        return Err(keys.refuse("hidden_act", format!("the activation `{act}` is not supported, only `silu`")));
    }
    let hidden_size = keys.size("hidden_size")?;
    let num_attention_heads = keys.size("num_attention_heads")?;
    let head_dim = match keys.optional_size("head_dim")? {
        Some(dim) => dim,
        None if hidden_size.is_multiple_of(num_attention_heads) => hidden_size / num_attention_heads,
        None => {
            let what =
                format!("{hidden_size} does not divide into {num_attention_heads} heads, and `head_dim` is absent");
            return Err(keys.refuse("hidden_size", what));
        }
    };
    let max_position_embeddings = keys.optional_size("max_position_embeddings")?.unwrap_or(2048);
    let (rope_theta, rope_scaling) = rope(keys, max_position_embeddings)?;
    Ok(Config {
        architecture: keys.architecture()?.unwrap_or("LlamaForCausalLM").into(),
        model_type: keys.text("model_type")?.unwrap_or("llama").into(),
        vocab_size: keys.size("vocab_size")?,
        hidden_size,
        intermediate_size: keys.size("intermediate_size")?,
        num_hidden_layers: keys.size("num_hidden_layers")?,
        num_attention_heads,
        num_key_value_heads: keys.optional_size("num_key_value_heads")?.unwrap_or(num_attention_heads),
        head_dim,
        rms_norm_eps: keys.number("rms_norm_eps")?.unwrap_or(1e-6),
        rope_theta,
        rope_scaling,
        tie_word_embeddings: keys.flag("tie_word_embeddings")?.unwrap_or(false),
        max_position_embeddings,
        bos_token_id: keys.ids("bos_token_id")?.first().copied(),
        eos_token_ids: keys.ids("eos_token_id")?,
        dtype: keys.text("dtype")?.or(keys.text("torch_dtype")?).map(Into::into),
        quantization: quantization(keys)?,
        raw: Value::Null,
    })
}

/// theta and scaling, from transformers 5's `rope_parameters` or the older `rope_theta` and `rope_scaling`.
fn rope(keys: &Keys, max_position_embeddings: usize) -> Result<(f64, Option<RopeScaling>)> {
    let new = keys.object("rope_parameters")?;
    let theta = match &new {
        Some(new) => new.number("rope_theta")?,
        None => None,
    };
    let theta = theta.or(keys.number("rope_theta")?).unwrap_or(10_000.0);
    let Some(rope) = new.or(keys.object("rope_scaling")?) else { return Ok((theta, None)) };
    if rope.number("partial_rotary_factor")?.is_some_and(|f| f != 1.0) {
        return Err(rope.refuse("partial_rotary_factor", "rotating a part of each head is not supported"));
    }
    let factor = || match rope.number("factor")? {
        Some(f) if f > 0.0 => Ok(f),
        Some(f) => Err(rope.refuse("factor", format!("{f} is not positive"))),
        None => Err(rope.refuse("factor", "the key is missing")),
    };
    let need = |key| rope.number(key)?.ok_or_else(|| rope.refuse(key, "the key is missing"));
    let scaling = match rope.text("rope_type")?.or(rope.text("type")?).unwrap_or("default") {
        "default" => None,
        "linear" => Some(RopeScaling::Linear { factor: factor()? }),
        "llama3" => {
            let (low, high) = (need("low_freq_factor")?, need("high_freq_factor")?);
            if !(low > 0.0 && high > low) {
                return Err(rope.refuse("high_freq_factor", format!("{high} is not above `low_freq_factor`, {low}")));
            }
            Some(RopeScaling::Llama3 {
                factor: factor()?,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: rope
                    .optional_size("original_max_position_embeddings")?
                    .unwrap_or(max_position_embeddings),
            })
        }
        other => {
            let what = format!("the scaling `{other}` is not supported, only `default`, `linear` and `llama3`");
            return Err(rope.refuse("rope_type", what));
        }
    };
    Ok((theta, scaling))
}

fn quantization(keys: &Keys) -> Result<Option<StoredQuantization>> {
    let Some(q) = keys.object("quantization_config")? else { return Ok(None) };
    let method = q.text("quant_method")?.unwrap_or("bitsandbytes");
    if method != "bitsandbytes" {
        return Err(q.refuse("quant_method", format!("`{method}` is not supported, only `bitsandbytes` in 4 bits")));
    }
    if !q.flag("load_in_4bit")?.or(q.flag("_load_in_4bit")?).unwrap_or(false) {
        return Err(q.refuse("load_in_4bit", "bitsandbytes in 8 bits is not supported, only in 4"));
    }
    let quant_type = match q.text("bnb_4bit_quant_type")?.unwrap_or("fp4") {
        "nf4" => QuantType::Nf4,
        "fp4" => QuantType::Fp4,
        other => return Err(q.refuse("bnb_4bit_quant_type", format!("`{other}` is neither `nf4` nor `fp4`"))),
    };
    Ok(Some(StoredQuantization { quant_type, double: q.flag("bnb_4bit_use_double_quant")?.unwrap_or(false) }))
}

/// Typed access to a JSON object; `null` counts as absent, and every error names file and key.
struct Keys<'a> {
    path: &'a Path,
    map: &'a Map<String, Value>,
}

impl<'a> Keys<'a> {
    fn refuse(&self, key: &str, what: impl Into<String>) -> Error {
        Error::format(self.path, format!("key `{key}`"), what, "Use a model of the Llama family, with its own config.")
    }

    fn typed<T>(&self, key: &str, kind: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match read(value) {
                Some(read) => Ok(Some(read)),
                None => Err(self.refuse(key, format!("`{value}` is not {kind}"))),
            },
        }
    }

    /// From 1 to 2³¹, so that no product of two overflows.
    fn optional_size(&self, key: &str) -> Result<Option<usize>> {
        self.typed(key, "a positive whole number", |v| {
            v.as_u64().filter(|n| (1..=1 << 31).contains(n)).map(|n| n as usize)
        })
    }

    fn size(&self, key: &str) -> Result<usize> {
        self.optional_size(key)?.ok_or_else(|| self.refuse(key, "the key is missing"))
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number", Value::as_f64)
    }

    fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", Value::as_bool)
    }

    fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.typed(key, "a string", Value::as_str)
    }

    fn object(&self, key: &str) -> Result<Option<Keys<'a>>> {
        Ok(self.typed(key, "an object", Value::as_object)?.map(|map| Keys { path: self.path, map }))
    }

    fn ids(&self, key: &str) -> Result<Vec<u32>> {
        Ok(self.typed(key, "a token id or a list of them", token_ids)?.unwrap_or_default())
    }

    fn architecture(&self) -> Result<Option<&'a str>> {
        self.typed("architectures", "a list of strings", |v| v.as_array()?.first()?.as_str())
    }

    fn family(&self) -> Result<&'static Family> {
        let (architecture, model_type) = (self.architecture()?, self.text("model_type")?);
        let (key, value, found) = match (architecture, model_type) {
            (Some(a), _) => ("architectures", a, FAMILIES.iter().find(|f| f.architectures.contains(&a))),
            (None, Some(m)) => ("model_type", m, FAMILIES.iter().find(|f| f.model_type == m)),
            (None, None) => return Err(self.refuse("architectures", "the key is missing, and so is `model_type`")),
        };
        found.ok_or_else(|| {
            let known: Vec<String> = FAMILIES.iter().flat_map(|f| f.architectures).map(|a| format!("`{a}`")).collect();
            self.refuse(key, format!("`{value}` is not supported, only {}", known.join(", ")))
        })
    }
}

/// The ids in a JSON number or list of numbers.
pub(crate) fn token_ids(value: &Value) -> Option<Vec<u32>> {
    let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
    match value {
        Value::Array(list) => list.iter().map(id).collect(),
        other => Some(vec![id(other)?]),
    }
}
