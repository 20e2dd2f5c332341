//! GGUF files written here as llama.cpp's converter writes them, against the safetensors that they were made of.

use std::f32::consts::PI;
use std::fs::File;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use ferrotune::model::{self, Config, names};
use serde_json::json;
use tempfile::TempDir;

use super::{Tensors, assert_same_weights, config, folder, logits, tensors, values};

/// The rows of each head in llama.cpp's order: row i of the first half, then row i of the second.
fn permute(tensor: &Tensor, heads: usize) -> Tensor {
    let rows: Vec<Vec<f32>> = tensor.to_vec2().unwrap();
    let head_dim = rows.len() / heads;
    let order = (0..heads).flat_map(|h| (0..head_dim / 2).flat_map(move |i| [0, 1].map(|half| (h, i, half))));
    let permuted: Vec<Vec<f32>> =
        order.map(|(h, i, half)| rows[h * head_dim + half * (head_dim / 2) + i].clone()).collect();
    Tensor::new(permuted, &Device::Cpu).unwrap()
}

/// A file's metadata and tensors, ready to be written.
pub(super) struct Gguf {
    pub(super) metadata: Vec<(String, Value)>,
    /// In f32 and llama.cpp's row order.
    pub(super) tensors: Vec<(String, Tensor)>,
    /// The type of what has two dimensions; the rest is f32.
    pub(super) matrices: GgmlDType,
}

impl Gguf {
    /// What the converter makes of a model.
    pub(super) fn new(config: &Config, tensors: &Tensors, matrices: GgmlDType) -> Self {
        let number = |n: usize| Value::U32(n as u32);
        let metadata = [
            ("general.architecture", Value::String("llama".into())),
            ("llama.block_count", number(config.num_hidden_layers)),
            ("llama.context_length", number(config.max_position_embeddings)),
            ("llama.embedding_length", number(config.hidden_size)),
            ("llama.feed_forward_length", number(config.intermediate_size)),
            ("llama.attention.head_count", number(config.num_attention_heads)),
            ("llama.attention.head_count_kv", number(config.num_key_value_heads)),
            ("llama.attention.key_length", number(config.head_dim)),
            ("llama.rope.dimension_count", number(config.head_dim)),
            ("llama.rope.freq_base", Value::F32(config.rope_theta as f32)),
            ("llama.attention.layer_norm_rms_epsilon", Value::F32(config.rms_norm_eps as f32)),
        ];
        let tensors = tensors.iter().map(|(name, tensor)| {
            let tensor = match name.rsplit('.').nth(1) {
                Some("q_proj") => permute(tensor, config.num_attention_heads),
                Some("k_proj") => permute(tensor, config.num_key_value_heads),
                _ => tensor.clone(),
            };
            (names::to_gguf(name).unwrap(), tensor)
        });
        Self {
            metadata: metadata.map(|(key, value)| (key.to_string(), value)).into(),
            tensors: tensors.collect(),
            matrices,
        }
    }

    pub(super) fn write(&self, directory: &Path) -> PathBuf {
        let path = directory.join("tiny.gguf");
        let quantize = |tensor: &Tensor| {
            let dtype = if tensor.rank() == 2 { self.matrices } else { GgmlDType::F32 };
            QTensor::quantize(tensor, dtype).unwrap()
        };
        let tensors: Vec<(&str, QTensor)> = self.tensors.iter().map(|(n, t)| (n.as_str(), quantize(t))).collect();
        let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(n, t)| (*n, t)).collect();
        let metadata: Vec<(&str, &Value)> = self.metadata.iter().map(|(k, v)| (k.as_str(), v)).collect();
        gguf_file::write(&mut File::create(&path).unwrap(), &metadata, &tensors).unwrap();
        path
    }
}

/// The weights as a file of this type holds them: matrices rounded to it.
fn rounded(tensors: Tensors, matrices: DType) -> Tensors {
    let round = |t: Tensor| if t.rank() == 2 { t.to_dtype(matrices).unwrap().to_dtype(DType::F32).unwrap() } else { t };
    tensors.into_iter().map(|(name, tensor)| (name, round(tensor))).collect()
}

fn compare(what: &str, gguf: &Gguf, reference: &TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let gguf = model::open(&gguf.write(directory.path())).unwrap();
    let reference = model::open(reference.path()).unwrap();
    assert_same_weights(what, &gguf, &reference);
    let (found, expected) = (&gguf.config, &reference.config);
    assert_eq!(found.rope_scaling, expected.rope_scaling, "{what}");
    assert_eq!(found.tie_word_embeddings, expected.tie_word_embeddings, "{what}");
    assert_eq!((found.vocab_size, found.head_dim), (expected.vocab_size, expected.head_dim), "{what}");
    // Through f32 and back, without a digit lost.
    assert_eq!((found.rope_theta, found.rms_norm_eps), (expected.rope_theta, expected.rms_norm_eps), "{what}");
    assert_eq!(logits(&gguf, None), logits(&reference, None), "{what}");
}

const TYPES: [(GgmlDType, DType); 3] =
    [(GgmlDType::F32, DType::F32), (GgmlDType::F16, DType::F16), (GgmlDType::BF16, DType::BF16)];

#[test]
fn llama_2_is_the_model_that_it_was_made_of() {
    for (stored, dtype) in TYPES {
        let tensors = rounded(tensors("tiny-llama-2"), dtype);
        let reference = folder(&config("tiny-llama-2"), &tensors);
        let gguf = Gguf::new(&model::open(reference.path()).unwrap().config, &tensors, stored);
        // Otherwise the order of rows would not be tested.
        let q = "model.layers.0.self_attn.q_proj.weight";
        let written = gguf.tensors.iter().find(|(name, _)| *name == names::to_gguf(q).unwrap()).unwrap();
        assert_ne!(values(&written.1), values(&tensors[q]));
        compare(&format!("{stored:?}"), &gguf, &reference);
    }
}

/// Grouped heads of their own size, a tied head, and rotary divisors in place of a rule.
#[test]
fn llama_3_2_is_the_model_that_it_was_made_of() {
    let mut json = config("tiny-llama-3.2");
    // The only rule that the divisors of a published model follow.
    json["rope_parameters"]["original_max_position_embeddings"] = json!(8192);
    for (stored, dtype) in TYPES {
        let tensors = rounded(tensors("tiny-llama-3.2"), dtype);
        let reference = folder(&json, &tensors);
        let config = model::open(reference.path()).unwrap().config;
        let mut gguf = Gguf::new(&config, &tensors, stored);
        assert!(!gguf.tensors.iter().any(|(name, _)| name == "output.weight"), "the head is tied");
        let divisors: Vec<f32> = (0..config.head_dim / 2)
            .map(|i| {
                let wavelength = 2.0 * PI * 500_000f32.powf((2 * i) as f32 / config.head_dim as f32);
                match wavelength {
                    w if w < 8192.0 / 4.0 => 1.0,
                    w if w > 8192.0 => 32.0,
                    w => {
                        let smooth = (8192.0 / w - 1.0) / 3.0;
                        1.0 / ((1.0 - smooth) / 32.0 + smooth)
                    }
                }
            })
            .collect();
        assert!(divisors.iter().any(|d| *d > 1.0 && *d < 32.0), "a frequency in between is among them: {divisors:?}");
        gguf.tensors.push(("rope_freqs.weight".into(), Tensor::new(divisors, &Device::Cpu).unwrap()));
        compare(&format!("{stored:?}"), &gguf, &reference);
    }
}

#[test]
fn linear_scaling_is_read() {
    let mut json = config("tiny-llama-2");
    json["rope_parameters"] = json!({"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5});
    let tensors = tensors("tiny-llama-2");
    let reference = folder(&json, &tensors);
    let mut gguf = Gguf::new(&model::open(reference.path()).unwrap().config, &tensors, GgmlDType::F32);
    gguf.metadata.push(("llama.rope.scaling.type".into(), Value::String("linear".into())));
    gguf.metadata.push(("llama.rope.scaling.factor".into(), Value::F32(2.5)));
    compare("linear", &gguf, &reference);
}

/// What contradicts itself or is not supported is refused with the key or tensor.
#[test]
fn other_files_are_refused_by_key() {
    let tensors = tensors("tiny-llama-2");
    let reference = folder(&config("tiny-llama-2"), &tensors);
    let config = model::open(reference.path()).unwrap().config;
    type Spoil = fn(&mut Gguf);
    let set = |gguf: &mut Gguf, key: &str, value: Value| {
        gguf.metadata.retain(|(k, _)| k != key);
        gguf.metadata.push((key.into(), value));
    };
    let rows: [(&str, Option<Value>, &[&str]); 8] = [
        ("general.architecture", Some(Value::String("gemma3".into())), &["`gemma3`", "`llama`"]),
        ("general.architecture", None, &["architecture"]),
        ("llama.block_count", None, &["missing"]),
        ("llama.block_count", Some(Value::String("2".into())), &["not a whole number"]),
        ("llama.attention.head_count", Some(Value::U32(0)), &["not positive"]),
        ("llama.attention.head_count_kv", Some(Value::U32(3)), &["num_key_value_heads"]),
        ("llama.rope.dimension_count", Some(Value::U32(4)), &["a part of each head"]),
        ("llama.rope.scaling.type", Some(Value::String("yarn".into())), &["`yarn`"]),
    ];
    let refused = |gguf: &Gguf, key: &str, told: &[&str]| {
        let directory = tempfile::tempdir().unwrap();
        let error = model::open(&gguf.write(directory.path())).err().unwrap_or_else(|| panic!("{key} is not refused"));
        let text = error.to_string();
        assert!(error.is_input() && text.contains("tiny.gguf"), "{text}");
        for words in told {
            assert!(text.contains(words), "{key}: no {words} in {text}");
        }
    };
    for (key, value, told) in rows {
        let mut gguf = Gguf::new(&config, &tensors, GgmlDType::F32);
        match value {
            Some(value) => set(&mut gguf, key, value),
            None => gguf.metadata.retain(|(k, _)| k != key),
        }
        refused(&gguf, key, told);
    }
    let spoilt: [(&str, Spoil); 3] = [
        ("token_embd.weight", |g| g.tensors.retain(|(name, _)| name != "token_embd.weight")),
        ("model.layers.1.mlp.up_proj.weight", |g| g.tensors.retain(|(name, _)| name != "blk.1.ffn_up.weight")),
        ("model.layers.0.self_attn.q_proj.weight", |g| {
            for (name, tensor) in &mut g.tensors {
                if name == "blk.0.attn_q.weight" {
                    *tensor = tensor.narrow(0, 0, 24).unwrap().force_contiguous().unwrap();
                }
            }
        }),
    ];
    for (tensor, spoil) in spoilt {
        let mut gguf = Gguf::new(&config, &tensors, GgmlDType::F32);
        spoil(&mut gguf);
        refused(&gguf, tensor, &[&format!("`{tensor}`")]);
    }
}
