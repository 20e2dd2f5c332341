//! Models written with an adapter in them, whole or in shards, and looked at block by block.

use std::collections::BTreeSet;
use std::fs;

use candle_core::{DType, Device, Tensor};
use ferrotune::lora::{Adapter, peft};
use ferrotune::model::export::{self, SHARD_BYTES};
use ferrotune::model::{self, LoadOptions, Pretrained, Quantization, streamed};
use ferrotune::quant::QuantType;

use super::{TINY, assert_same_weights, golden, values};

const NF4: Quantization = Quantization { quant_type: QuantType::Nf4, double: true };

fn adapter(name: &str, pretrained: &Pretrained) -> Adapter {
    load(&format!("{name}/lora"), pretrained)
}

fn load(name: &str, pretrained: &Pretrained) -> Adapter {
    peft::load(&golden(name), &pretrained.config.module_shapes(), &Device::Cpu).unwrap()
}

/// The model's adapters: LoRA, and DoRA where there is one.
fn adapters(name: &str, pretrained: &Pretrained) -> Vec<Adapter> {
    let dora = (name == "tiny-llama-2").then(|| load("methods/dora", pretrained));
    [adapter(name, pretrained)].into_iter().chain(dora).collect()
}

fn sequences() -> Vec<Vec<u32>> {
    vec![(0..40).map(|i| (i * 7 + 3) % 90).collect(), vec![5], vec![17, 17, 2]]
}

/// The logits of the whole model in memory.
fn in_memory(pretrained: &Pretrained, adapter: Option<&Adapter>, quantization: Option<Quantization>) -> Vec<Tensor> {
    let options = LoadOptions { quantization, ..LoadOptions::new(Device::Cpu, DType::F32) };
    let mut decoder = model::load(pretrained, &options, |_, _| {}).unwrap();
    if let Some(adapter) = adapter {
        decoder.set_adapter(adapter, false).unwrap();
    }
    sequences().iter().map(|ids| decoder.logits(ids).unwrap()).collect()
}

#[test]
fn a_model_looked_at_block_by_block_is_the_model_in_memory() {
    for name in TINY {
        let pretrained = model::open(&golden(name)).unwrap();
        let adapters = adapters(name, &pretrained);
        for quantization in [None, Some(NF4)] {
            for adapter in adapters.iter().map(Some).chain([None]) {
                let found = streamed::logits(&pretrained, adapter, quantization, &sequences(), |_, _| {}).unwrap();
                let expected = in_memory(&pretrained, adapter, quantization);
                for (found, expected) in found.iter().zip(&expected) {
                    assert_eq!(values(found), values(expected), "{name} {quantization:?}");
                }
            }
        }
    }
}

/// In 32 bits nothing but the order of sums differs; in 16, each weight is rounded once.
#[test]
fn a_merged_model_says_what_base_and_adapter_say() {
    let cases = TINY.into_iter().flat_map(|name| {
        let base = model::open(&golden(name)).unwrap();
        adapters(name, &base).into_iter().map(move |adapter| (name, adapter))
    });
    for (name, adapter) in cases {
        let base = model::open(&golden(name)).unwrap();
        let expected = in_memory(&base, Some(&adapter), None);
        let mut greatest = Vec::new();
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let directory = tempfile::tempdir().unwrap();
            export::write_merged(&base, &adapter, dtype, SHARD_BYTES, directory.path(), |_, _| {}).unwrap();
            let merged = model::open(directory.path()).unwrap();
            assert_eq!(merged.weights.names(), base.weights.names());
            let found = export::verify_merged(&base, &adapter, Some(NF4), directory.path(), |_, _| {}).unwrap();
            let by_hand = export::difference(&expected, &in_memory(&merged, None, None)).unwrap();
            greatest.push(by_hand.greatest / by_hand.largest_logit);
            assert!(found.merged.greatest > 0.0 && found.trained.unwrap().greatest > found.merged.greatest);
        }
        // The adapter changes the logits, or nothing was compared.
        assert!(export::difference(&expected, &in_memory(&base, None, None)).unwrap().greatest > 0.01);
        // Rounding errors of 24, 8 and 11 bits, each some times over.
        assert!(
            greatest[0] < 2f32.powi(-18) && greatest[1] < 2f32.powi(-4) && greatest[2] < 2f32.powi(-7),
            "{greatest:?}"
        );
    }
}

#[test]
fn merging_onto_4_bits_merges_into_their_values() {
    let name = TINY[0];
    let original = model::open(&golden(name)).unwrap();
    let adapter = adapter(name, &original);
    let (in_4_bits, merged) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    export::write_quantized(&original, NF4, SHARD_BYTES, in_4_bits.path(), |_, _| {}).unwrap();
    let base = model::open(in_4_bits.path()).unwrap();
    export::write_merged(&base, &adapter, DType::F32, SHARD_BYTES, merged.path(), |_, _| {}).unwrap();
    let merged = model::open(merged.path()).unwrap();
    assert_eq!(merged.config.quantization, None);
    let expected = in_memory(&original, Some(&adapter), Some(NF4));
    let found = export::difference(&expected, &in_memory(&merged, None, None)).unwrap();
    assert!(found.greatest / found.largest_logit < 2f32.powi(-18), "{found:?}");
}

#[test]
fn shards_hold_what_they_may_and_together_the_model() {
    for name in TINY {
        let base = model::open(&golden(name)).unwrap();
        let adapter = adapter(name, &base);
        let most = 40_000;
        let (whole, sharded, in_4_bits) =
            (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        export::write_merged(&base, &adapter, DType::F32, SHARD_BYTES, whole.path(), |_, _| {}).unwrap();
        export::write_merged(&base, &adapter, DType::F32, most, sharded.path(), |_, _| {}).unwrap();
        export::write_quantized(&base, NF4, most, in_4_bits.path(), |_, _| {}).unwrap();
        assert_same_weights(name, &model::open(sharded.path()).unwrap(), &model::open(whole.path()).unwrap());
        assert_eq!(
            values(&in_memory(&model::open(in_4_bits.path()).unwrap(), None, None)[0]),
            values(&in_memory(&base, None, Some(NF4))[0])
        );
        let files: BTreeSet<String> = fs::read_dir(sharded.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let shards: Vec<&String> = files.iter().filter(|file| file.ends_with(".safetensors")).collect();
        assert!(shards.len() > 2, "{files:?}");
        assert!(files.iter().all(|file| !file.contains("tmp")), "{files:?}");
        for (i, shard) in shards.iter().enumerate() {
            assert_eq!(**shard, format!("model-{:05}-of-{:05}.safetensors", i + 1, shards.len()));
            let tensors = candle_core::safetensors::load(sharded.path().join(shard), &Device::Cpu).unwrap();
            let bytes: usize = tensors.values().map(|t| t.elem_count() * 4).sum();
            assert!(bytes as u64 <= most || tensors.len() == 1, "{shard} holds {bytes} bytes");
        }
        let index: serde_json::Value =
            serde_json::from_slice(&fs::read(sharded.path().join("model.safetensors.index.json")).unwrap()).unwrap();
        let total: usize =
            base.weights.names().iter().map(|n| base.weights.shape(n).unwrap().iter().product::<usize>() * 4).sum();
        assert_eq!(index["metadata"]["total_size"], total);
    }
}

#[test]
fn an_adapter_of_another_model_leaves_nothing_behind() {
    let base = model::open(&golden(TINY[0])).unwrap();
    let mut adapter = adapter(TINY[0], &base);
    let layer = adapter.layers.pop_first().unwrap().1;
    adapter.layers.insert("model.layers.99.self_attn.q_proj".into(), layer);
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("new/merged");
    let error = export::write_merged(&base, &adapter, DType::BF16, SHARD_BYTES, &directory, |_, _| {}).unwrap_err();
    assert!(error.is_input() && error.to_string().contains("model.layers.99"), "{error}");
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
}
