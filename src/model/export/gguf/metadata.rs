//! The metadata of a GGUF file, and the bytes before its tensors.

use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Value;

use super::{ALIGNMENT, Entry, GgufType, tokenizer};
use crate::Result;
use crate::model::config::{FAMILIES, Family};
use crate::model::rope::RopeScaling;
use crate::model::{Config, Pretrained};

pub(super) type Metadata = Vec<(String, Value)>;

pub(super) fn family(config: &Config) -> &'static Family {
    FAMILIES.iter().find(|f| f.architectures.contains(&config.architecture.as_str())).unwrap_or(&FAMILIES[0])
}

/// Whether the rotary frequencies follow a rule that GGUF keeps as a tensor of divisors.
pub(super) fn has_divisors(config: &Config) -> bool {
    matches!(config.rope_scaling, Some(RopeScaling::Llama3 { .. }))
}

/// Everything but the tensors.
pub(super) fn of(pretrained: &Pretrained, kind: GgufType) -> Result<Metadata> {
    let config = &pretrained.config;
    let family = family(config);
    let mut metadata = Metadata::new();
    let mut general = |key: &str, value| metadata.push((format!("general.{key}"), value));
    general("architecture", Value::String(family.gguf.into()));
    general("type", Value::String("model".into()));
    let name = pretrained.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    general("name", Value::String(name));
    general("file_type", Value::U32(kind.file_type()));
    general("quantization_version", Value::U32(2));

    let number = |n: usize| Value::U32(n as u32);
    let mut model = |key: &str, value| metadata.push((format!("{}.{key}", family.gguf), value));
    model("block_count", number(config.num_hidden_layers));
    model("context_length", number(config.max_position_embeddings));
    model("embedding_length", number(config.hidden_size));
    model("feed_forward_length", number(config.intermediate_size));
    model("attention.head_count", number(config.num_attention_heads));
    model("attention.head_count_kv", number(config.num_key_value_heads));
    model("attention.key_length", number(config.head_dim));
    model("attention.value_length", number(config.head_dim));
    model("attention.layer_norm_rms_epsilon", Value::F32(config.rms_norm_eps as f32));
    model("rope.freq_base", Value::F32(config.rope_theta as f32));
    model("rope.dimension_count", number(config.head_dim));
    if let Some(RopeScaling::Linear { factor }) = config.rope_scaling {
        model("rope.scaling.type", Value::String("linear".into()));
        model("rope.scaling.factor", Value::F32(factor as f32));
    }
    model("vocab_size", number(config.vocab_size));
    metadata.extend(tokenizer::metadata(pretrained)?);
    Ok(metadata)
}

/// Magic, version, metadata and the list of tensors, as the file has them.
pub(super) fn header(metadata: &Metadata, entries: &[Entry]) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((entries.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        put_string(&mut out, key);
        out.extend(kind(value).to_le_bytes());
        put(&mut out, value);
    }
    let mut offset = 0u64;
    for entry in entries {
        put_string(&mut out, &entry.gguf);
        out.extend((entry.shape.len() as u32).to_le_bytes());
        // ggml counts the fastest dimension first.
        for dim in entry.shape.iter().rev() {
            out.extend((*dim as u64).to_le_bytes());
        }
        out.extend(type_number(entry.kind).to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset = (offset + entry.bytes()).next_multiple_of(ALIGNMENT);
    }
    out
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(v) => out.push(*v),
        Value::I8(v) => out.extend(v.to_le_bytes()),
        Value::U16(v) => out.extend(v.to_le_bytes()),
        Value::I16(v) => out.extend(v.to_le_bytes()),
        Value::U32(v) => out.extend(v.to_le_bytes()),
        Value::I32(v) => out.extend(v.to_le_bytes()),
        Value::U64(v) => out.extend(v.to_le_bytes()),
        Value::I64(v) => out.extend(v.to_le_bytes()),
        Value::F32(v) => out.extend(v.to_le_bytes()),
        Value::F64(v) => out.extend(v.to_le_bytes()),
        Value::Bool(v) => out.push((*v).into()),
        Value::String(text) => put_string(out, text),
        Value::Array(values) => {
            out.extend(values.first().map_or(8, kind).to_le_bytes());
            out.extend((values.len() as u64).to_le_bytes());
            values.iter().for_each(|value| put(out, value));
        }
    }
}

/// GGUF's numbers of metadata types.
fn kind(value: &Value) -> u32 {
    match value {
        Value::U8(_) => 0,
        Value::I8(_) => 1,
        Value::U16(_) => 2,
        Value::I16(_) => 3,
        Value::U32(_) => 4,
        Value::I32(_) => 5,
        Value::F32(_) => 6,
        Value::Bool(_) => 7,
        Value::String(_) => 8,
        Value::Array(_) => 9,
        Value::U64(_) => 10,
        Value::I64(_) => 11,
        Value::F64(_) => 12,
    }
}

/// ggml's numbers of the types that are written here.
fn type_number(kind: GgmlDType) -> u32 {
    match kind {
        GgmlDType::F16 => 1,
        GgmlDType::Q4_0 => 2,
        GgmlDType::Q5_0 => 6,
        GgmlDType::Q8_0 => 8,
        GgmlDType::Q4K => 12,
        GgmlDType::Q6K => 14,
        GgmlDType::BF16 => 30,
        _ => 0,
    }
}
