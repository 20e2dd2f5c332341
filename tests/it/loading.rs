//! One model from every file format: the same tensors, the same logits, and no crash on a damaged file.

mod config;
mod damaged;
mod gguf;
mod merge;
mod tokenizer;
mod written_gguf;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use ferrotune::model::load::BLOCKSIZE;
use ferrotune::model::names::LINEARS;
use ferrotune::model::{self, LoadOptions, Pretrained, Quantization, export};
use ferrotune::quant::{QuantType, Quantized};
use serde_json::{Value, json};
use tempfile::TempDir;

const TINY: [&str; 2] = ["tiny-llama-2", "tiny-llama-3.2"];

type Tensors = BTreeMap<String, Tensor>;

fn golden(path: impl AsRef<Path>) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path)
}

/// The tensors of a tiny model's single file.
fn tensors(name: &str) -> Tensors {
    candle_core::safetensors::load(golden(name).join("model.safetensors"), &Device::Cpu).unwrap().into_iter().collect()
}

fn config(name: &str) -> Value {
    serde_json::from_slice(&fs::read(golden(name).join("config.json")).unwrap()).unwrap()
}

fn save<'t>(path: &Path, tensors: impl IntoIterator<Item = (&'t String, &'t Tensor)>) {
    let tensors = tensors.into_iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
    candle_core::safetensors::save(&tensors, path).unwrap();
}

/// A model's folder with these tensors in a single file.
fn folder(config: &Value, tensors: &Tensors) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("config.json"), config.to_string()).unwrap();
    save(&directory.path().join("model.safetensors"), tensors);
    directory
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// A weight as it reads, in f32.
fn weight(pretrained: &Pretrained, name: &str) -> Tensor {
    pretrained.weights.tensor(name, DType::F32, &Device::Cpu).unwrap()
}

/// Fails unless `found` has the names, shapes and values of `expected`, to the bit.
fn assert_same_weights(what: &str, found: &Pretrained, expected: &Pretrained) {
    assert_eq!(found.weights.names(), expected.weights.names(), "{what}");
    for name in expected.weights.names() {
        assert_eq!(found.weights.shape(&name), expected.weights.shape(&name), "{what}: {name}");
        let (found, expected) = (weight(found, &name), weight(expected, &name));
        assert_eq!(found.dims(), expected.dims(), "{what}: {name}");
        assert_eq!(values(&found), values(&expected), "{what}: {name}");
    }
}

/// The logits of a sequence that is long enough for positions to matter.
fn logits(pretrained: &Pretrained, quantization: Option<Quantization>) -> Vec<f32> {
    let options = LoadOptions { quantization, ..LoadOptions::new(Device::Cpu, DType::F32) };
    let decoder = model::load(pretrained, &options, |_, _| {}).unwrap();
    let ids: Vec<u32> = (0..40).map(|i| (i * 7 + 3) % 90).collect();
    values(&decoder.logits(&ids).unwrap())
}

#[test]
fn shards_are_the_single_file() {
    for name in TINY {
        let tensors = tensors(name);
        let directory = tempfile::tempdir().unwrap();
        fs::copy(golden(name).join("config.json"), directory.path().join("config.json")).unwrap();
        let mut weight_map = serde_json::Map::new();
        let files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
        for (part, file) in files.into_iter().enumerate() {
            // Every other tensor, so that no shard is a run of names.
            let held: Vec<_> = tensors.iter().skip(part).step_by(2).collect();
            assert!(held.len() > 5);
            save(&directory.path().join(file), held.iter().copied());
            weight_map.extend(held.into_iter().map(|(name, _)| (name.clone(), json!(file))));
        }
        let index = json!({"metadata": {"total_size": 0}, "weight_map": weight_map});
        fs::write(directory.path().join("model.safetensors.index.json"), index.to_string()).unwrap();

        let (single, sharded) = (model::open(&golden(name)).unwrap(), model::open(directory.path()).unwrap());
        assert_eq!(sharded.weights.names().len(), tensors.len());
        assert_same_weights(name, &sharded, &single);
        assert_eq!(logits(&sharded, None), logits(&single, None), "{name}");
    }
}

/// A 4-bit folder holds what quantizing while loading makes, and reads back to it.
#[test]
fn a_folder_in_4_bits_is_the_model_quantized_while_loading() {
    let types = [QuantType::Nf4, QuantType::Fp4];
    let cases = TINY.into_iter().flat_map(|name| types.map(|t| [(name, t, true), (name, t, false)]).concat());
    for (name, quant_type, double) in cases {
        let what = format!("{name} {quant_type:?}, double {double}");
        let quantization = Quantization { quant_type, double };
        let directory = tempfile::tempdir().unwrap();
        let original = model::open(&golden(name)).unwrap();
        export::write_quantized(&original, quantization, export::SHARD_BYTES, directory.path(), |_, _| {}).unwrap();

        let stored = model::open(directory.path()).unwrap();
        let described = stored.config.quantization.as_ref().unwrap();
        assert_eq!((described.quant_type, described.double), (quant_type, double), "{what}");
        assert_eq!(stored.weights.names(), original.weights.names(), "{what}");
        let mut in_4_bits = 0;
        for name in original.weights.names() {
            let tensor = weight(&original, &name);
            let Some(read) = stored.weights.quantized(&name).unwrap() else {
                assert_eq!(values(&weight(&stored, &name)), values(&tensor), "{what}: {name}");
                continue;
            };
            in_4_bits += 1;
            let shape: [usize; 2] = tensor.dims().try_into().unwrap();
            let direct = Quantized::quantize(&values(&tensor), shape, quant_type, BLOCKSIZE, double).unwrap();
            assert_eq!(read, direct, "{what}: {name}");
            assert_eq!(values(&weight(&stored, &name)), direct.dequantize(), "{what}: {name}");
            assert_ne!(direct.dequantize(), values(&tensor), "{what}: {name} lost nothing, so nothing was compared");
        }
        assert_eq!(in_4_bits, LINEARS.len() * original.config.num_hidden_layers, "{what}");

        let quantized = logits(&original, Some(quantization));
        assert_eq!(logits(&stored, None), quantized, "{what}");
        // What is stored in 4 bits stays as it is stored, whatever is asked for.
        assert_eq!(logits(&stored, Some(quantization)), quantized, "{what}");
        assert_ne!(quantized, logits(&original, None), "{what}");
    }
}

/// 16-bit weights are read as the 32-bit ones that they stand for.
#[test]
fn sixteen_bit_weights_are_widened() {
    for dtype in [DType::BF16, DType::F16] {
        let narrow = tensors("tiny-llama-2").into_iter().map(|(n, t)| (n, t.to_dtype(dtype).unwrap()));
        let narrow: Tensors = narrow.collect();
        let wide = narrow.iter().map(|(n, t)| (n.clone(), t.to_dtype(DType::F32).unwrap())).collect();
        let config = config("tiny-llama-2");
        let (narrow, wide) = (folder(&config, &narrow), folder(&config, &wide));
        let (narrow, wide) = (model::open(narrow.path()).unwrap(), model::open(wide.path()).unwrap());
        assert_same_weights(&format!("{dtype:?}"), &narrow, &wide);
        assert_eq!(logits(&narrow, None), logits(&wide, None));
    }
}
