//! The decoder: embeddings, blocks, a last norm and the head; one pass for training, one for evaluation, one for decoding.

use super::batch::Batch;
use super::block::{Block, Context, Norm, Saved, mix};
use super::cache::SequenceCache;
use super::config::Config;
use super::linear::{AdaptedLayer, LayerIds, Linear};
use super::parameters::{Gradients, ParameterId, Parameters};
use super::prefix::Copies;
use super::soft_prompt::{self, Attached};
use crate::lora::{Adapter, LoraConfig, ModuleShape, peft};
use crate::ops::attention::CachedSequence;
use crate::ops::dora;
use crate::ops::linear_cross_entropy::{self, Output, Wants};
use crate::ops::rope::RopeTable;
use crate::{Error, Result, device};
use candle_core::{DType, Device, Tensor};
use std::sync::{Mutex, PoisonError};

/// A Llama-family model. T is the number of tokens of a batch, H the hidden size, V the vocabulary.
#[derive(Debug)]
pub struct Decoder {
    pub config: Config,
    /// `[V, H]`
    pub(super) embed_tokens: Tensor,
    pub(super) embed_id: Option<ParameterId>,
    pub(super) blocks: Vec<Block>,
    pub(super) norm: Norm,
    /// `[V, H]`; absent where the embeddings serve as the head too
    pub(super) lm_head: Option<Tensor>,
    pub(super) head_id: Option<ParameterId>,
    /// What stands before every sequence, under prompt tuning
    pub(super) soft_prompt: Option<Attached>,
    pub(super) parameters: Parameters,
    pub(super) rope: RopeCache,
}

/// How a training pass goes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pass {
    /// The dropout stream of this micro-batch; `None` drops nothing.
    pub dropout_seed: Option<u64>,
    /// NEFTune's alpha: noise on the embeddings while training; 0 for none. Its draws are those of `dropout_seed`.
    pub neftune_noise_alpha: f64,
    /// Keep each block's input only, and run the block again before its backward.
    pub gradient_checkpointing: bool,
    /// What the sum of the losses is multiplied by: one over the trained tokens of the whole optimizer step.
    pub scale: f64,
}

/// What a block leaves for backward.
enum Kept {
    Input(Tensor),
    Whole(Box<Saved>),
}

impl Decoder {
    /// The device that computes.
    pub fn device(&self) -> &Device {
        self.embed_tokens.device()
    }

    /// The type of the activations.
    pub fn dtype(&self) -> DType {
        self.embed_tokens.dtype()
    }

    /// The embeddings of the vocabulary, `[V, H]`.
    pub fn embeddings(&self) -> &Tensor {
        &self.embed_tokens
    }

    /// What training changes.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Every linear module of the blocks, in order.
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.blocks.iter().flat_map(|block| block.linears())
    }

    /// The linear module that transformers calls `name`, such as `model.layers.0.self_attn.q_proj`.
    pub fn linear(&self, name: &str) -> Option<&Linear> {
        self.linears().find(|linear| linear.name == name)
    }

    /// How many values the base model has, quantized ones counted singly.
    pub fn base_parameter_count(&self) -> usize {
        let head = self.lm_head.as_ref().map_or(0, Tensor::elem_count);
        let linears = self.module_shapes().iter().map(|m| m.in_features * m.out_features).sum::<usize>();
        let norms = (2 * self.blocks.len() + 1) * self.config.hidden_size;
        self.embed_tokens.elem_count() + head + linears + norms
    }

    /// The linear modules of the blocks, in order.
    pub fn module_shapes(&self) -> Vec<ModuleShape> {
        self.config.module_shapes()
    }

    /// Puts `adapter` onto the modules; with `train` its matrices become what training changes.
    ///
    /// Errors: [`Error::Config`] when the adapter names a module that the model lacks.
    pub fn set_adapter(&mut self, adapter: &Adapter, train: bool) -> Result<()> {
        let mut parameters = Parameters::default();
        let mut placed = 0;
        for linear in self.blocks.iter_mut().flat_map(|b| b.linears_mut()) {
            let Some(layer) = adapter.layers.get(&linear.name) else {
                linear.lora = None;
                continue;
            };
            placed += 1;
            let ids = train.then(|| {
                let key = |matrix| peft::key(&linear.name, matrix);
                let magnitude = layer.magnitude.as_ref();
                LayerIds {
                    a: parameters.add(key("lora_A"), &layer.a),
                    b: parameters.add(key("lora_B"), &layer.b),
                    magnitude: magnitude.map(|m| parameters.add(peft::magnitude_key(&linear.name), m)),
                }
            });
            linear.lora = Some(AdaptedLayer::new(layer.clone(), ids, &linear.weight)?);
        }
        if placed != adapter.layers.len() {
            let what = format!("the adapter adapts {} modules, of which the model has {placed}", adapter.layers.len());
            return Err(Error::config("", what, "Use the model that the adapter was trained on."));
        }
        self.parameters = parameters;
        Ok(())
    }

    /// A new adapter for this model, which changes nothing yet: DoRA's magnitudes are the lengths that the rows have with it.
    ///
    /// Errors: those of [`Adapter::init`] and the operations.
    pub fn new_adapter(&self, config: LoraConfig, base_model: &str, seed: u64) -> Result<Adapter> {
        let mut adapter = Adapter::init(config, base_model, &self.module_shapes(), seed, self.device())?;
        if adapter.config.use_dora {
            for linear in self.linears() {
                if let Some(layer) = adapter.layers.get_mut(&linear.name) {
                    let squared = dora::row_norms_squared(&linear.weight)?;
                    layer.magnitude = Some(dora::row_norms(&linear.weight, &layer.branch(None), &squared)?);
                }
            }
        }
        Ok(adapter)
    }

    /// Takes the adapter, or the prompt, off: the base model again.
    pub fn remove_adapter(&mut self) {
        self.soft_prompt = None;
        for linear in self.blocks.iter_mut().flat_map(|b| b.linears_mut()) {
            linear.lora = None;
        }
        self.parameters = Parameters::default();
    }

    /// Loss and its gradients, which are added to `gradients`.
    ///
    /// Errors: [`Error::Data`] for ids outside the vocabulary; those of the operations.
    pub fn loss_and_gradients(&self, batch: &Batch, pass: Pass, gradients: &mut Gradients) -> Result<Output> {
        let (rope, copies) = (self.rope_for(batch)?, self.copies_for(batch)?);
        let ctx = Context {
            cu_seqlens: &batch.cu_seqlens,
            copies: copies.as_ref(),
            positions: &batch.positions,
            rope: &rope,
            dropout_seed: pass.dropout_seed.map(mix),
        };
        let mut x = self.embed(&batch.ids)?;
        if let Some(seed) = pass.dropout_seed.filter(|_| pass.neftune_noise_alpha > 0.0) {
            let alpha = pass.neftune_noise_alpha;
            let noise = soft_prompt::noise(batch, self.config.hidden_size, alpha, seed, self.device())?;
            x = (x.to_dtype(DType::F32)? + noise)?.to_dtype(x.dtype())?;
        }
        let mut kept = Vec::with_capacity(self.blocks.len());
        for block in &self.blocks {
            let (y, saved) = block.forward(&x, &ctx)?;
            kept.push(if pass.gradient_checkpointing { Kept::Input(x) } else { Kept::Whole(Box::new(saved)) });
            x = y;
        }
        let (hidden, norm_saved) = self.norm.forward(&x)?;
        let wants = if self.head_id.is_some() { Wants::HiddenAndHeadGradient } else { Wants::HiddenGradient };
        let (output, saved) = linear_cross_entropy::forward(&hidden, self.head(), &batch.targets, wants)?;
        let (dh, dw) = linear_cross_entropy::backward(saved, pass.scale)?;
        drop(hidden);
        if let (Some(id), Some(dw)) = (self.head_id, dw) {
            gradients.add(id, dw)?;
        }
        let mut dx = self.norm.backward(&x, &norm_saved, &dh, gradients)?;
        drop((x, dh));
        for block in self.blocks.iter().rev() {
            let prompt_trains = self.soft_prompt.as_ref().is_some_and(|prompt| prompt.id.is_some());
            let need_dx = block.index > 0 || self.embed_id.is_some() || prompt_trains;
            let saved = match kept.pop() {
                Some(Kept::Whole(saved)) => *saved,
                Some(Kept::Input(x)) => block.saved(&x, &ctx)?,
                None => break,
            };
            if let Some(d) = block.backward(saved, &dx, &ctx, need_dx, gradients)? {
                dx = d;
            }
        }
        if let Some(id) = self.embed_id {
            gradients.add_rows(id, &self.embed_tokens, &self.ids(&batch.ids)?, &dx)?;
        }
        self.prompt_gradient(&batch.ids, &dx, gradients)?;
        Ok(output)
    }

    /// The loss alone.
    ///
    /// Errors: as [`Self::loss_and_gradients`].
    pub fn loss(&self, batch: &Batch) -> Result<Output> {
        let hidden = self.hidden(batch)?;
        Ok(linear_cross_entropy::forward(&hidden, self.head(), &batch.targets, Wants::Loss)?.0)
    }

    /// The logits after each token of one sequence: `[S, V]` f32.
    ///
    /// Errors: [`Error::Data`] for ids outside the vocabulary or an empty sequence.
    pub fn logits(&self, ids: &[u32]) -> Result<Tensor> {
        if ids.is_empty() {
            return Err(Error::data("", "the sequence of ids is empty", "Give at least one id."));
        }
        self.ids(ids)?;
        let hidden = self.hidden(&self.batch([(ids, vec![false; ids.len()].as_slice())], false)?)?;
        let added = self.virtual_tokens();
        self.head_logits(&hidden.narrow(0, added, ids.len())?)
    }

    /// Takes new tokens of several sequences in one pass: prompts, or one token each.
    ///
    /// Returns the logits after each sequence's last new token, `[B, V]` f32.
    /// Errors: [`Error::Shape`] where a cache is full or a sequence brings no token; [`Error::Data`] for wrong ids.
    pub fn step(&self, caches: &mut [&mut SequenceCache], tokens: &[&[u32]]) -> Result<Tensor> {
        device::on_pool(|| device::awake(self.device(), || self.step_here(caches, tokens)))
    }

    fn step_here(&self, caches: &mut [&mut SequenceCache], tokens: &[&[u32]]) -> Result<Tensor> {
        if caches.len() != tokens.len() || tokens.iter().any(|t| t.is_empty()) {
            let what = format!("{} caches, {} sequences, each with at least one token", caches.len(), tokens.len());
            return Err(Error::Shape { op: "step", what });
        }
        let (mut ids, mut positions, mut rows) = (Vec::new(), Vec::new(), Vec::with_capacity(tokens.len()));
        for (cache, new) in caches.iter_mut().zip(tokens) {
            let start = ids.len();
            if cache.is_empty() {
                ids.extend(self.virtual_ids());
            }
            ids.extend_from_slice(new);
            let count = ids.len() - start;
            cache.reserve(count)?;
            rows.push(start..ids.len());
            positions.extend((cache.len()..cache.len() + count).map(|p| p as u32));
        }
        let needed = positions.iter().max().map_or(0, |p| *p as usize + 1);
        let rope = self.rope.table(&self.config, needed, self.device())?;
        let ctx = Context { cu_seqlens: &[], copies: None, positions: &positions, rope: &rope, dropout_seed: None };
        let mut x = self.embed(&ids)?;
        for block in &self.blocks {
            let store = |k: &Tensor, v: &Tensor| {
                let mut sequences = Vec::with_capacity(rows.len());
                for (cache, rows) in caches.iter().zip(&rows) {
                    cache.write(
                        block.index,
                        &k.narrow(0, rows.start, rows.len())?,
                        &v.narrow(0, rows.start, rows.len())?,
                    )?;
                    let (k, v) = &cache.layers[block.index];
                    sequences.push(CachedSequence { rows: rows.clone(), k, v, len: cache.len() + rows.len() });
                }
                Ok(sequences)
            };
            x = block.infer(&x, &ctx, store)?;
        }
        for (cache, rows) in caches.iter_mut().zip(&rows) {
            cache.advance(rows.len());
        }
        let last: Vec<u32> = rows.iter().map(|r| (r.end - 1) as u32).collect();
        let last = x.index_select(&Tensor::new(last, self.device())?, 0)?;
        self.head_logits(&self.norm.forward(&last)?.0)
    }

    /// `[T, H]`, after the last norm.
    fn hidden(&self, batch: &Batch) -> Result<Tensor> {
        let (rope, copies) = (self.rope_for(batch)?, self.copies_for(batch)?);
        let ctx = Context {
            cu_seqlens: &batch.cu_seqlens,
            copies: copies.as_ref(),
            positions: &batch.positions,
            rope: &rope,
            dropout_seed: None,
        };
        let mut x = self.embed(&batch.ids)?;
        for block in &self.blocks {
            x = block.forward(&x, &ctx)?.0;
        }
        Ok(self.norm.forward(&x)?.0)
    }

    fn head(&self) -> &Tensor {
        self.lm_head.as_ref().unwrap_or(&self.embed_tokens)
    }

    fn head_logits(&self, hidden: &Tensor) -> Result<Tensor> {
        linear_cross_entropy::logits(hidden, self.head())
    }

    fn rope_for(&self, batch: &Batch) -> Result<RopeTable> {
        let needed = batch.positions.iter().max().map_or(0, |p| *p as usize + 1);
        self.rope.table(&self.config, needed, self.device())
    }

    fn copies_for(&self, batch: &Batch) -> Result<Option<Copies>> {
        batch.prefix.as_ref().map(|prefix| prefix.copies(self.device())).transpose()
    }

    pub(super) fn ids(&self, ids: &[u32]) -> Result<Tensor> {
        let vocabulary = self.config.vocab_size;
        if let Some(id) = ids.iter().find(|id| **id as usize >= vocabulary) {
            let what = format!("token id {id} is outside the model's vocabulary of {vocabulary}");
            return Err(Error::data("", what, "Use the tokenizer that belongs to the model."));
        }
        Ok(Tensor::new(ids, self.device())?)
    }
}

/// The rotation table, as long as was needed so far: a model may allow 131,072 positions of which a run uses 512.
#[derive(Debug, Default)]
pub(super) struct RopeCache(Mutex<Option<(usize, RopeTable)>>);

impl RopeCache {
    fn table(&self, config: &Config, positions: usize, device: &Device) -> Result<RopeTable> {
        // The guarded value is replaced whole, so a panic elsewhere cannot leave half of it.
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((capacity, table)) = held.as_ref()
            && *capacity >= positions
        {
            return Ok(table.clone());
        }
        let capacity = positions.next_power_of_two().max(256);
        let inv_freq = super::rope::inv_freq(config);
        let table = RopeTable::new(&inv_freq, capacity, 1.0, device)?;
        *held = Some((capacity, table.clone()));
        Ok(table)
    }
}
