//! The good folder: a model of two small blocks as safetensors and as GGUF, an adapter, data, prompts and ids.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use ferrotune::candle_core::quantized::gguf_file::{self, Value as Metadata};
use ferrotune::candle_core::quantized::{GgmlDType, QTensor};
use ferrotune::candle_core::{Device, safetensors};
use ferrotune::model::names;
use tempfile::TempDir;

use crate::tiny;

pub(super) fn golden(path: impl AsRef<Path>) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(path)
}

/// `model/` and `data.jsonl` (see [`tiny`]), `adapter/` for the model, `prompts.jsonl`, `ids.json`, and `tiny.gguf`, another
/// model.
pub(super) fn new() -> TempDir {
    let folder = tiny::workspace();
    let dir = folder.path();
    fs::create_dir(dir.join("adapter")).unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(golden("tiny-llama-3.2/lora").join(file), dir.join("adapter").join(file)).unwrap();
    }
    let records = fs::read_to_string(dir.join("data.jsonl")).unwrap();
    let lines: Vec<&str> = records.lines().take(2).chain(["{\"prompt\": \"tea\"}"]).collect();
    fs::write(dir.join("prompts.jsonl"), lines.join("\n")).unwrap();
    fs::write(dir.join("ids.json"), "[[1, 2, 3], [4]]").unwrap();
    write_gguf(&dir.join("tiny.gguf"), &metadata());
    folder
}

/// What llama.cpp's converter writes for tiny-llama-2, without a tokenizer.
pub(super) fn metadata() -> Vec<(&'static str, Metadata)> {
    let number = |n| Metadata::U32(n);
    vec![
        ("general.architecture", Metadata::String("llama".into())),
        ("llama.block_count", number(2)),
        ("llama.context_length", number(512)),
        ("llama.embedding_length", number(32)),
        ("llama.feed_forward_length", number(48)),
        ("llama.attention.head_count", number(4)),
        ("llama.attention.head_count_kv", number(4)),
        ("llama.attention.layer_norm_rms_epsilon", Metadata::F32(1e-5)),
    ]
}

/// tiny-llama-2's weights under GGUF's names.
pub(super) fn write_gguf(path: &Path, metadata: &[(&str, Metadata)]) {
    let weights = safetensors::load(golden("tiny-llama-2/model.safetensors"), &Device::Cpu).unwrap();
    let mut tensors: Vec<(String, QTensor)> = weights
        .iter()
        .map(|(name, t)| (names::to_gguf(name).unwrap(), QTensor::quantize(t, GgmlDType::F32).unwrap()))
        .collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, t)| (name.as_str(), t)).collect();
    let metadata: Vec<(&str, &Metadata)> = metadata.iter().map(|(key, value)| (*key, value)).collect();
    gguf_file::write(&mut File::create(path).unwrap(), &metadata, &tensors).unwrap();
}
