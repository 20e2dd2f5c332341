//! The same numbers as transformers, PEFT and bitsandbytes: logits, adapters, and ten training steps.
//!
//! The references and their makers are in `tests/golden`. The bounds are far above what rounding does (a run of the
//! reference loop with f64 weights moves its record by less than 1e-6) and far below what any mistake would do.

mod methods;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use ferrotune::lora;
use ferrotune::model::batch::Batch;
use ferrotune::model::cache::SequenceCache;
use ferrotune::model::config::Config;
use ferrotune::model::decoder::{Decoder, Pass};
use ferrotune::model::load::{LoadOptions, Quantization, load};
use ferrotune::model::parameters::Gradients;
use ferrotune::model::rope::inv_freq;
use ferrotune::quant::QuantType;
use ferrotune::train::adamw::{AdamW, Hyperparameters};
use ferrotune::train::clip::clip_grad_norm;
use ferrotune::train::loraplus;
use ferrotune::train::schedule::{Schedule, SchedulerType};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

const TINY: [&str; 2] = ["tiny-llama-2", "tiny-llama-3.2"];
const NF4: Quantization = Quantization { quant_type: QuantType::Nf4, double: true };

/// How far a value may be from the reference: `absolute + relative · |reference|`.
#[derive(Clone, Copy)]
struct Bound {
    absolute: f64,
    relative: f64,
}

/// f32 sums of a few dozen to a few hundred terms, two blocks deep; the logits reach about 10.
const TINY_LOGITS: Bound = Bound { absolute: 1e-4, relative: 1e-5 };
/// The same, thirty blocks deep.
const SMOLLM2_LOGITS: Bound = Bound { absolute: 1e-3, relative: 0.0 };
/// Losses and gradient norms of ten steps.
const RECORD: Bound = Bound { absolute: 0.0, relative: 1e-4 };
/// Adapter values after ten steps with rate 1e-2: AdamW magnifies the rounding of gradients that are nearly zero.
const TRAINED: Bound = Bound { absolute: 1e-4, relative: 1e-3 };

fn golden(path: impl AsRef<Path>) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path)
}

fn json<T: DeserializeOwned>(path: impl AsRef<Path>) -> T {
    let path = golden(path);
    let text = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn tensors(path: impl AsRef<Path>) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(golden(path), &Device::Cpu).unwrap()
}

/// Fails with the worst element (furthest beyond its bound) if any is out of `bound`; NaN is out of every bound.
fn assert_close(what: &str, got: impl IntoIterator<Item = f64>, expected: &[f64], bound: Bound) {
    let got: Vec<f64> = got.into_iter().collect();
    assert_eq!(got.len(), expected.len(), "{what}: number of values");
    let excess = |(g, e): (&f64, &f64)| {
        let ratio = (g - e).abs() / (bound.absolute + bound.relative * e.abs());
        if ratio.is_nan() { f64::INFINITY } else { ratio }
    };
    let ratios = got.iter().zip(expected).map(excess);
    let worst = ratios.enumerate().max_by(|a, b| a.1.total_cmp(&b.1));
    let Some((index, ratio)) = worst else { return };
    let (g, e) = (got[index], expected[index]);
    eprintln!("{what}: worst at {index}: {g} for {e}, {ratio:.1e} of the bound");
    assert!(ratio <= 1.0, "{what}[{index}]: {g}, expected {e}, off by {:e}, {ratio} times the bound", (g - e).abs());
}

fn assert_tensors_close(what: &str, got: &Tensor, expected: &Tensor, bound: Bound) {
    assert_eq!(got.dims(), expected.dims(), "{what}: shape");
    let values = |t: &Tensor| t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
    assert_close(what, values(got), &values(expected), bound);
}

fn decoder(path: &Path, quantization: Option<Quantization>) -> Decoder {
    let options = LoadOptions { quantization, ..LoadOptions::new(Device::Cpu, DType::F32) };
    load(&ferrotune::model::open(path).unwrap(), &options, |_, _| {}).unwrap()
}

fn adapt(decoder: &mut Decoder, directory: &Path, train: bool) -> lora::Adapter {
    let adapter = lora::peft::load(directory, &decoder.module_shapes(), decoder.device()).unwrap();
    decoder.set_adapter(&adapter, train).unwrap();
    adapter
}

/// The files that the manifests record, or why they are stale.
#[test]
fn references_are_fresh() {
    #[derive(Deserialize)]
    struct Manifest {
        command: String,
        generators: BTreeMap<String, String>,
        files: BTreeMap<String, String>,
    }
    for manifest in ["models.json", "methods.json"] {
        let manifest: Manifest = json(manifest);
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let generators = manifest.generators.iter().map(|(name, digest)| (root.join(name), digest));
        let files = manifest.files.iter().map(|(name, digest)| (golden(name), digest));
        for (path, digest) in generators.chain(files) {
            let found = format!("{:x}", Sha256::digest(std::fs::read(&path).unwrap()));
            assert_eq!(found, *digest, "`{}` changed; run `{}`", path.display(), manifest.command);
        }
    }
}

/// Logits of the base model, and with each adapter, against transformers and PEFT.
#[test]
fn logits_equal_transformers() {
    for name in TINY {
        let ids: Vec<Vec<u32>> = json(format!("{name}/ids.json"));
        let mut decoder = decoder(&golden(name), None);
        for adapter in ["", "lora", "lora-patterns"] {
            if !adapter.is_empty() {
                adapt(&mut decoder, &golden(name).join(adapter), false);
            }
            let expected = tensors(golden(name).join(adapter).join("logits.safetensors"));
            assert_eq!(expected.len(), ids.len());
            for (i, ids) in ids.iter().enumerate() {
                let key = format!("logits.{i}");
                let what = format!("{name}/{adapter} {key}");
                assert_tensors_close(&what, &decoder.logits(ids).unwrap(), &expected[&key], TINY_LOGITS);
            }
        }
    }
}

/// Prompts in two pieces, then token by token, all sequences side by side: each step's logits are transformers' too.
#[test]
fn cached_steps_give_the_logits_of_whole_sequences() {
    for name in TINY {
        let all: Vec<Vec<u32>> = json(format!("{name}/ids.json"));
        let mut decoder = decoder(&golden(name), None);
        adapt(&mut decoder, &golden(name).join("lora"), false);
        let expected = tensors(golden(name).join("lora/logits.safetensors"));
        // Sequences long enough to be split.
        let rows: Vec<(usize, &[u32])> =
            all.iter().enumerate().filter(|(_, ids)| ids.len() > 4).map(|(i, ids)| (i, ids.as_slice())).collect();
        let mut caches: Vec<SequenceCache> =
            rows.iter().map(|(_, ids)| SequenceCache::new(&decoder, ids.len()).unwrap()).collect();
        let mut done = vec![0; rows.len()];
        while let Some(longest) = rows.iter().zip(&done).map(|((_, ids), d)| ids.len() - d).max().filter(|l| *l > 0) {
            let live: Vec<usize> = (0..rows.len()).filter(|r| done[*r] < rows[*r].1.len()).collect();
            assert!(longest > 0 && !live.is_empty());
            let pieces: Vec<&[u32]> = live
                .iter()
                .map(|r| {
                    let (ids, from) = (rows[*r].1, done[*r]);
                    let end = match from {
                        0 => ids.len() / 3,
                        _ if from == ids.len() / 3 => ids.len() - 3,
                        _ => from + 1,
                    };
                    &ids[from..end]
                })
                .collect();
            let mut used: Vec<&mut SequenceCache> =
                caches.iter_mut().enumerate().filter(|(r, _)| live.contains(r)).map(|(_, c)| c).collect();
            let logits = decoder.step(&mut used, &pieces).unwrap();
            for (row, (r, piece)) in live.iter().zip(&pieces).enumerate() {
                done[*r] += piece.len();
                let key = format!("logits.{}", rows[*r].0);
                let expected = expected[&key].get(done[*r] - 1).unwrap();
                let what = format!("{name} {key} after {} tokens", done[*r]);
                assert_tensors_close(&what, &logits.get(row).unwrap(), &expected, TINY_LOGITS);
            }
        }
    }
}

/// A cache begins small and grows: 900 tokens by prompt and one by one, and a prompt larger than the first room.
#[test]
fn a_cache_grows_with_its_sequence() {
    let decoder = decoder(&golden("tiny-llama-3.2"), None);
    let ids: Vec<u32> = (0..900).map(|i| 3 + (i * 37 + i / 7) % 120).collect();
    let expected = decoder.logits(&ids).unwrap();
    for first in [1, 600] {
        let mut cache = SequenceCache::new(&decoder, 2_000_000_000).unwrap();
        let mut done = 0;
        for piece in [first, 200 - first.min(199), 40].into_iter().chain(std::iter::repeat(30)) {
            let end = (done + piece).min(ids.len());
            let logits = decoder.step(&mut [&mut cache], &[&ids[done..end]]).unwrap();
            let what = format!("after {end} tokens");
            assert_tensors_close(&what, &logits.get(0).unwrap(), &expected.get(end - 1).unwrap(), TINY_LOGITS);
            done = end;
            if done == ids.len() {
                break;
            }
        }
        assert_eq!(cache.len(), ids.len());
    }
}

/// Both ways in which transformers has written rotary settings mean the same.
#[test]
fn both_spellings_of_rope_settings_are_one() {
    let new = Config::from_file(&golden("tiny-llama-3.2/config.json")).unwrap();
    let hub = Config::from_file(&golden("tiny-llama-3.2/config-hub.json")).unwrap();
    assert_eq!(inv_freq(&new), inv_freq(&hub));
    assert_eq!(new.head_dim, hub.head_dim);
}

/// PEFT's file, read and written again, holds the same tensors under the same names.
#[test]
fn adapters_survive_a_round_trip() {
    for (name, adapter) in TINY.iter().flat_map(|name| ["lora", "lora-patterns"].map(|a| (name, a))) {
        let mut decoder = decoder(&golden(name), None);
        let loaded = adapt(&mut decoder, &golden(name).join(adapter), false);
        let directory = tempfile::tempdir().unwrap();
        lora::peft::save(&loaded, directory.path()).unwrap();
        let written = tensors(directory.path().join("adapter_model.safetensors"));
        let original = tensors(golden(name).join(adapter).join("adapter_model.safetensors"));
        let mut keys: Vec<&String> = written.keys().collect();
        keys.sort();
        let mut expected: Vec<&String> = original.keys().collect();
        expected.sort();
        assert_eq!(keys, expected);
        for (key, tensor) in &original {
            assert_tensors_close(key, &written[key], tensor, Bound { absolute: f64::MIN_POSITIVE, relative: 0.0 });
        }
    }
}

#[derive(Deserialize)]
struct MicroBatch {
    sequences: Vec<Vec<u32>>,
    trained: Vec<Vec<bool>>,
}

#[derive(Deserialize)]
struct Step {
    micro_batches: Vec<MicroBatch>,
}

#[derive(Deserialize)]
struct Record {
    loss: Vec<f64>,
    grad_norm: Vec<f64>,
    lr: Vec<f64>,
}

#[derive(Deserialize)]
struct Run {
    adapter: String,
    bnb_4bit_quant_type: String,
    learning_rate: f64,
    max_grad_norm: f64,
    #[serde(default)]
    loraplus_lr_ratio: Option<f64>,
    warmup_ratio: f64,
    weight_decay: f64,
    adam_beta1: f64,
    adam_beta2: f64,
    adam_epsilon: f64,
    lr_scheduler_type: SchedulerType,
    expected: Record,
    steps: Vec<Step>,
}

impl Run {
    fn quantization(&self) -> Option<Quantization> {
        (self.bnb_4bit_quant_type == "nf4").then_some(NF4)
    }
}

/// Trains the adapter of `run` as it says: see [`train`].
fn follow(name: &str, base: &Path, run: &Run, gradient_checkpointing: bool) -> Decoder {
    let mut decoder = decoder(base, run.quantization());
    adapt(&mut decoder, &golden(name).join(&run.adapter), true);
    train(name, decoder, run, gradient_checkpointing)
}

/// Trains what `decoder` trains as `run` says, compares each step's record, and returns the decoder with what was trained.
fn train(name: &str, decoder: Decoder, run: &Run, gradient_checkpointing: bool) -> Decoder {
    let hyper = Hyperparameters {
        beta1: run.adam_beta1,
        beta2: run.adam_beta2,
        eps: run.adam_epsilon,
        weight_decay: run.weight_decay,
    };
    let parameters: Vec<(String, Tensor)> =
        decoder.parameters().iter().map(|p| (p.name.clone(), p.value.clone())).collect();
    let mut optimizer = AdamW::new(&parameters, hyper).unwrap();
    if let Some(ratio) = run.loraplus_lr_ratio {
        optimizer.set_rates(loraplus::rates(&parameters, ratio));
    }
    let schedule = Schedule::new(run.lr_scheduler_type, run.warmup_ratio, run.steps.len());
    let mut record = Record { loss: vec![], grad_norm: vec![], lr: vec![] };
    for (index, step) in run.steps.iter().enumerate() {
        let batch = |m: &MicroBatch| {
            let sequences = m.sequences.iter().zip(&m.trained);
            decoder.batch(sequences.map(|(ids, trained)| (ids.as_slice(), trained.as_slice())), false)
        };
        let batches: Vec<Batch> = step.micro_batches.iter().map(|m| batch(m).unwrap()).collect();
        let trained: usize = batches.iter().map(Batch::trained_tokens).sum();
        let pass = Pass { gradient_checkpointing, scale: 1.0 / trained as f64, ..Pass::default() };
        let mut gradients = Gradients::new(decoder.parameters());
        let loss_sum: f64 =
            batches.iter().map(|b| decoder.loss_and_gradients(b, pass, &mut gradients).unwrap().loss_sum).sum();
        let mut gradients = gradients.into_tensors(decoder.parameters()).unwrap();
        let lr = run.learning_rate * schedule.factor(index);
        record.loss.push(loss_sum / trained as f64);
        record.grad_norm.push(clip_grad_norm(&mut gradients, run.max_grad_norm).unwrap());
        record.lr.push(lr);
        optimizer.step(&parameters, &gradients, lr).unwrap();
    }
    assert_close(&format!("{name} lr"), record.lr, &run.expected.lr, Bound { absolute: 1e-12, relative: 1e-9 });
    assert_close(&format!("{name} loss"), record.loss, &run.expected.loss, RECORD);
    assert_close(&format!("{name} grad_norm"), record.grad_norm, &run.expected.grad_norm, RECORD);
    decoder
}

/// Ten steps of LoRA and of QLoRA from a PEFT adapter: loss, gradient norm, rate, and the adapter that results.
#[test]
fn ten_steps_follow_peft() {
    for name in TINY {
        for method in ["lora", "qlora"] {
            let run: Run = json(format!("{name}/train-{method}.json"));
            assert_eq!(run.steps.len(), 10);
            let expected = tensors(format!("{name}/train-{method}.safetensors"));
            for gradient_checkpointing in [false, true] {
                let decoder = follow(name, &golden(name), &run, gradient_checkpointing);
                assert_eq!(decoder.parameters().len(), expected.len());
                for parameter in decoder.parameters().iter() {
                    let what = format!("{name} {method} {}", parameter.name);
                    assert_tensors_close(&what, &parameter.value, &expected[&parameter.name], TRAINED);
                }
            }
        }
    }
}

/// The model of the quick start, fetched on first use.
fn smollm2() -> PathBuf {
    ferrotune::hub::resolve("smollm2-135m").unwrap()
}

/// SmolLM2-135M from its GGUF file, tokenizer included.
#[test]
fn smollm2_equals_transformers() {
    #[derive(Deserialize)]
    struct Table {
        top_ids: Vec<Vec<u32>>,
        top_values: Vec<Vec<f64>>,
        logsumexp: Vec<f64>,
        probes: Vec<Vec<f64>>,
    }
    #[derive(Deserialize)]
    struct Golden {
        texts: Vec<String>,
        ids: Vec<Vec<u32>>,
        probe_columns: Vec<u32>,
        logits: Vec<Table>,
    }
    let golden: Golden = json("smollm2-135m/logits.json");
    let base = smollm2();
    let pretrained = ferrotune::model::open(&base).unwrap();
    let tokenizer = pretrained.tokenizer().unwrap();
    let decoder = decoder(&base, None);
    for ((text, ids), expected) in golden.texts.iter().zip(&golden.ids).zip(&golden.logits) {
        assert_eq!(tokenizer.encode(text.as_str(), false).unwrap().get_ids(), ids, "{text}");
        let logits: Vec<Vec<f32>> = decoder.logits(ids).unwrap().to_vec2().unwrap();
        assert_eq!(logits.len(), expected.logsumexp.len());
        for (position, row) in logits.iter().enumerate() {
            let what = |part: &str| format!("{part} of `{text}`, position {position}");
            let at = |columns: &[u32]| columns.iter().map(|c| f64::from(row[*c as usize])).collect::<Vec<_>>();
            let (ids, values) = (&expected.top_ids[position], &expected.top_values[position]);
            assert_close(&what("largest logits"), at(ids), values, SMOLLM2_LOGITS);
            assert_close(&what("probes"), at(&golden.probe_columns), &expected.probes[position], SMOLLM2_LOGITS);
            let top = row.iter().copied().fold(f32::MIN, f32::max).into();
            assert_close(&what("maximum"), [top], &values[..1], SMOLLM2_LOGITS);
            let sum: f64 = row.iter().map(|v| (f64::from(*v) - top).exp()).sum();
            assert_close(&what("logsumexp"), [top + sum.ln()], &[expected.logsumexp[position]], SMOLLM2_LOGITS);
        }
    }
}

/// Ten QLoRA steps on SmolLM2-135M.
#[test]
fn ten_steps_on_smollm2_follow_peft() {
    let run: Run = json("smollm2-135m/train-qlora.json");
    follow("smollm2-135m", &smollm2(), &run, false);
}
