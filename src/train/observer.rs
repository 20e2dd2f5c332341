//! What a run tells whoever watches it: the loop emits events and never prints.
//!
//! A terminal, a notebook, `metrics.jsonl` and a test each implement [`Observer`] their own way.

use std::path::Path;

/// Someone who watches a run, and may stop it.
pub trait Observer {
    /// Called in order, on the thread that trains. Returning late delays the run.
    fn event(&mut self, event: &Event);

    /// Whether the run should stop after the step it is in. Asked once per micro-batch.
    fn cancelled(&self) -> bool {
        false
    }
}

/// An observer that looks away.
impl Observer for () {
    fn event(&mut self, _: &Event) {}
}

/// Something that happened in a run.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The model is loaded and the data tokenized; the first step comes next.
    Start(&'a Start),
    /// An optimizer step is done.
    Step(&'a StepMetrics),
    /// An evaluation is done.
    Eval(&'a EvalMetrics),
    /// A whole checkpoint stands in this folder.
    Checkpoint(&'a Path),
    /// Something worth a line: truncated examples, a setting without effect on this device.
    Note(&'a str),
    /// The run is over, finished or interrupted; its files are written.
    End(&'a End),
}

/// The size of a run, before its first step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Start {
    /// Optimizer steps of the whole run.
    pub total_steps: usize,
    /// Steps already done in the checkpoint that this run goes on from; 0 anew.
    pub resumed_step: usize,
    /// Training examples after dropping.
    pub examples: usize,
    /// Rows that a micro-batch is made of: packs of examples with `packing`, else examples.
    pub rows: usize,
    /// Tokens in one epoch.
    pub tokens: usize,
    /// Parameters that the optimizer changes.
    pub trainable_parameters: usize,
    /// Parameters in all, quantized ones counted singly.
    pub total_parameters: usize,
    /// The device in words.
    pub device: String,
}

/// One optimizer step, as `metrics.jsonl` has it.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct StepMetrics {
    /// From 1.
    pub step: usize,
    pub total_steps: usize,
    /// Epochs done, in parts of one.
    pub epoch: f64,
    /// Mean over the step's trained tokens, in nats.
    pub loss: f64,
    /// Euclidean norm over all trained parameters, before clipping.
    pub grad_norm: f64,
    /// The rate used in this step.
    pub learning_rate: f64,
    /// Non-padding tokens of this step.
    pub num_tokens: usize,
    pub tokens_per_second: f64,
    /// Peak resident memory of the process so far; 0 where the system does not tell.
    pub peak_rss_bytes: u64,
}

/// One evaluation on the held-out data.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct EvalMetrics {
    /// The step after which it was made.
    pub step: usize,
    pub epoch: f64,
    /// Mean over the trained tokens of the evaluation data, in nats.
    pub eval_loss: f64,
    /// Trained tokens that the mean is over.
    pub eval_tokens: usize,
    pub eval_seconds: f64,
}

/// How a run ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct End {
    /// The last finished step.
    pub step: usize,
    pub total_steps: usize,
    /// Whether [`Observer::cancelled`] ended it.
    pub interrupted: bool,
    /// Seconds of this process's steps and evaluations.
    pub train_seconds: f64,
    /// Tokens of this process's steps by the time they took.
    pub tokens_per_second: f64,
    pub peak_rss_bytes: u64,
}
