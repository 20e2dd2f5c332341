//! Ways to lay out the same work that must give the same numbers.

use candle_core::Tensor;
use ferrotune::data::Example;
use ferrotune::lora::{self, LoraConfig};
use ferrotune::model::{Batch, Decoder, Gradients, Pass};
use ferrotune::train;
use ferrotune::train::config::{ComputeDtype, QuantizationConfig};
use ferrotune::train::{Method, RunConfig, Session, SftConfig};

use super::{Watcher, Workspace, assert_near};

/// Rounding only: sums of a few hundred f32 in another order.
const ROUNDING: f64 = 2e-5;

fn one_step(config: RunConfig, sft: SftConfig) -> RunConfig {
    let lora = lora::LoraConfig { lora_dropout: 0.0, ..config.lora.clone() };
    let sft = SftConfig { max_steps: Some(1), shuffle: false, warmup_ratio: 0.0, ..sft };
    RunConfig { sft, lora, quantization: in_f32(), ..config }
}

fn in_f32() -> QuantizationConfig {
    QuantizationConfig { bnb_4bit_compute_dtype: ComputeDtype::Float32, ..QuantizationConfig::default() }
}

fn assert_same_step(what: &str, a: &Watcher, b: &Watcher) {
    let (a, b) = (&a.steps[0], &b.steps[0]);
    assert_eq!(a.num_tokens, b.num_tokens, "{what}: tokens");
    assert_near(&format!("{what}: loss"), a.loss, b.loss, ROUNDING);
    assert_near(&format!("{what}: gradient norm"), a.grad_norm, b.grad_norm, ROUNDING);
    assert!(a.grad_norm > 1e-3, "{what}: a gradient to compare");
}

/// A step over all records, packed several to a row or one to a row.
#[test]
fn packed_equals_unpacked() {
    let work = Workspace::new();
    let step = |name: &str, packing: bool| {
        let config = work.config(name);
        let sft = SftConfig {
            packing,
            per_device_train_batch_size: 24,
            gradient_accumulation_steps: 1,
            ..config.sft.clone()
        };
        work.train(one_step(config, sft))
    };
    assert_same_step("packing", &step("packed", true), &step("unpacked", false));
}

/// Eight records at once, or as four micro-batches of two whose trained tokens differ in number.
#[test]
fn accumulated_equals_batched() {
    let work = Workspace::new();
    let step = |name: &str, batch: usize, accumulation: usize, checkpointing: bool| {
        let config = work.config(name);
        let sft = SftConfig {
            packing: false,
            per_device_train_batch_size: batch,
            gradient_accumulation_steps: accumulation,
            gradient_checkpointing: checkpointing,
            completion_only_loss: true,
            ..config.sft.clone()
        };
        work.train(one_step(config, sft))
    };
    let batched = step("batched", 8, 1, false);
    assert_same_step("accumulation", &batched, &step("accumulated", 2, 4, false));
    assert_same_step("checkpointing", &batched, &step("checkpointed", 8, 1, true));
}

/// Loss and gradients of batches, with an adapter whose B is not zero: that would leave A without a gradient.
fn gradients(decoder: &Decoder, batches: &[Batch]) -> (f64, Vec<Tensor>) {
    let pass = Pass { scale: 0.01, ..Pass::default() };
    let mut gradients = Gradients::new(decoder.parameters());
    let losses = batches.iter().map(|batch| decoder.loss_and_gradients(batch, pass, &mut gradients).unwrap().loss_sum);
    (losses.sum(), gradients.into_tensors(decoder.parameters()).unwrap())
}

fn noisy_session(work: &Workspace) -> Session {
    let config = RunConfig { method: Method::Qlora, quantization: in_f32(), ..work.config("unused") };
    let session = work.session(config).unwrap();
    for parameter in session.decoder.parameters().iter() {
        let noise = Tensor::rand(-0.1f32, 0.1, parameter.value.shape(), parameter.value.device()).unwrap();
        parameter.value.slice_set(&noise, 0, 0).unwrap();
    }
    session
}

fn assert_same_gradients(decoder: &Decoder, a: (f64, Vec<Tensor>), b: (f64, Vec<Tensor>)) {
    assert_near("loss", a.0, b.0, ROUNDING);
    for ((a, b), parameter) in a.1.iter().zip(&b.1).zip(decoder.parameters().iter()) {
        let norm = |t: &Tensor| t.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
        let difference = norm(&(a - b).unwrap());
        assert!(norm(a) > 0.0 && difference <= 1e-4 * norm(a), "{}: {difference} of {}", parameter.name, norm(a));
    }
}

fn lay_out(examples: &[Example]) -> Batch {
    Batch::new(examples.iter().map(|e| (e.ids.as_slice(), e.trained.as_slice()))).unwrap()
}

/// The gradients of sequences in one batch are the sums of theirs alone, each parameter's.
#[test]
fn sequences_of_a_batch_do_not_see_each_other() {
    let work = Workspace::new();
    let decoder = &noisy_session(&work).decoder;
    let examples: Vec<Example> = [3u32, 40, 17, 64]
        .map(|length| Example {
            ids: (0..length).map(|i| 3 + (i * 7 + length) % 90).collect(),
            trained: (0..length).map(|i| i % 3 != 0).collect(),
        })
        .into();
    let apart: Vec<Batch> = examples.chunks(1).map(lay_out).collect();
    assert_same_gradients(decoder, gradients(decoder, &[lay_out(&examples)]), gradients(decoder, &apart));
}

/// A prefix that stands once for all sequences gives the losses and gradients of one that stands in each.
#[test]
fn a_shared_prefix_counts_for_every_sequence() {
    let work = Workspace::new();
    let decoder = &noisy_session(&work).decoder;
    let examples: Vec<Example> = [3u32, 30, 17]
        .map(|own| Example {
            ids: (0..20).map(|i| 3 + i * 5 % 90).chain((0..own).map(|i| 3 + (i * 7 + own) % 90)).collect(),
            trained: (0..20 + own).map(|i| i > 20 && i % 3 != 0).collect(),
        })
        .into();
    let sequences = examples.iter().map(|e| (e.ids.as_slice(), e.trained.as_slice()));
    let shared = Batch::sharing_prefix(sequences).unwrap();
    let whole = lay_out(&examples);
    assert_eq!((shared.ids.len(), shared.tokens()), (70, whole.tokens()));
    let loss = |batch: &Batch| decoder.loss(batch).unwrap().loss_sum;
    assert_near("evaluation", loss(&shared), loss(&whole), ROUNDING);
    assert_same_gradients(decoder, gradients(decoder, &[shared]), gradients(decoder, &[whole]));
}

/// Every method lowers the loss.
#[test]
fn every_method_learns() {
    let work = Workspace::new();
    let plain = SftConfig { max_steps: Some(30), learning_rate: 1e-2, max_grad_norm: 1.0, ..work.config("").sft };
    let noisy = SftConfig { neftune_noise_alpha: Some(1.0), loraplus_lr_ratio: Some(4.0), ..plain.clone() };
    let fast = SftConfig { learning_rate: 0.1, ..plain.clone() };
    let dora = LoraConfig { use_dora: true, ..LoraConfig::default() };
    let arms = [
        ("full", Method::Full, &plain, LoraConfig::default()),
        ("lora", Method::Lora, &plain, LoraConfig::default()),
        ("qlora", Method::Qlora, &plain, LoraConfig::default()),
        ("dora", Method::Qlora, &plain, dora),
        ("noise and LoRA+", Method::Lora, &noisy, LoraConfig::default()),
        ("prompt-tuning", Method::PromptTuning, &fast, LoraConfig::default()),
    ];
    for (name, method, sft, lora) in arms {
        let watcher = work.train(RunConfig { method, sft: sft.clone(), lora, ..work.config(name) });
        let mean =
            |steps: &[train::observer::StepMetrics]| steps.iter().map(|s| s.loss).sum::<f64>() / steps.len() as f64;
        let (first, last) = (mean(&watcher.steps[..3]), mean(&watcher.steps[27..]));
        assert!(last < 0.9 * first, "{name}: {first} to {last}");
    }
}

/// Activations in bf16 give the loss curve of those in f32, step by step.
#[test]
fn bf16_follows_f32() {
    let work = Workspace::new();
    let losses = |bnb_4bit_compute_dtype: ComputeDtype| {
        let config = work.config(&format!("{bnb_4bit_compute_dtype:?}"));
        let sft = SftConfig { max_steps: Some(50), learning_rate: 1e-3, ..config.sft.clone() };
        let quantization = QuantizationConfig { bnb_4bit_compute_dtype, ..config.quantization.clone() };
        work.train(RunConfig { method: Method::Qlora, sft, quantization, ..config }).steps
    };
    let (wide, narrow) = (losses(ComputeDtype::Float32), losses(ComputeDtype::Bfloat16));
    assert_eq!(wide.len(), 50);
    for (wide, narrow) in wide.iter().zip(&narrow) {
        assert_near(&format!("step {}", wide.step), wide.loss, narrow.loss, 0.01);
    }
    assert!(wide.iter().zip(&narrow).any(|(wide, narrow)| wide.loss != narrow.loss), "the same type twice");
    assert!(wide[49].loss < 0.98 * wide[0].loss, "a curve that goes down");
}
