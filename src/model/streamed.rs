//! A forward pass through a checkpoint on disk with one block in memory at a time: for a model that is to be looked at once
//! and may not fit as a whole.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use super::batch::Batch;
use super::block::Context;
use super::linear::AdaptedLayer;
use super::load::{LoadOptions, Loader, Quantization};
use super::names::{EMBED_TOKENS, FINAL_NORM, LM_HEAD};
use super::pretrained::Pretrained;
use super::rope;
use crate::lora::Adapter;
use crate::ops::linear_cross_entropy;
use crate::ops::rope::RopeTable;
use crate::{Error, Result};

/// Rows of the head that are in memory at a time.
const HEAD_ROWS: usize = 8192;

/// The logits after each token of every sequence, `[S, V]` f32, computed in f32 on the CPU.
///
/// - `quantization`: what the linear weights are rounded to first, unless they are stored in 4 bits
/// - `progress`: hears of each finished block (number done, number in all)
///
/// Errors: [`Error::Data`] for an empty sequence or ids outside the vocabulary; those of reading the weights.
pub fn logits(
    pretrained: &Pretrained,
    adapter: Option<&Adapter>,
    quantization: Option<Quantization>,
    sequences: &[Vec<u32>],
    mut progress: impl FnMut(usize, usize),
) -> Result<Vec<Tensor>> {
    let (config, source) = (&pretrained.config, pretrained.weights.as_ref());
    let mut options = LoadOptions::new(Device::Cpu, DType::F32);
    options.quantization = quantization;
    let loader = Loader { source, options: &options };

    let mut batches = Vec::with_capacity(sequences.len());
    for ids in sequences {
        if ids.is_empty() {
            return Err(Error::data("", "the sequence of ids is empty", "Give at least one id."));
        }
        batches.push(Batch::single(ids));
    }
    let longest = sequences.iter().map(Vec::len).max().unwrap_or(1);
    let rope = RopeTable::new(&rope::inv_freq(config), longest, 1.0, &Device::Cpu)?;
    let mut hidden = embed(pretrained, sequences)?;
    for index in 0..config.num_hidden_layers {
        let mut block = loader.block(config, index)?;
        for linear in block.linears_mut() {
            let layer = adapter.and_then(|adapter| adapter.layers.get(&linear.name));
            linear.lora = layer.map(|layer| AdaptedLayer::new(layer.clone(), None, &linear.weight)).transpose()?;
        }
        for (x, batch) in hidden.iter_mut().zip(&batches) {
            let ctx = Context {
                cu_seqlens: &batch.cu_seqlens,
                copies: None,
                positions: &batch.positions,
                rope: &rope,
                dropout_seed: None,
            };
            *x = block.forward(x, &ctx)?.0;
        }
        progress(index + 1, config.num_hidden_layers);
    }
    let norm = loader.norm(FINAL_NORM, config)?;
    for x in &mut hidden {
        *x = norm.forward(x)?.0;
    }

    let head = if config.tie_word_embeddings { EMBED_TOKENS } else { LM_HEAD };
    let mut parts = vec![Vec::new(); sequences.len()];
    for start in (0..config.vocab_size).step_by(HEAD_ROWS) {
        let rows = source.rows(head, start, HEAD_ROWS.min(config.vocab_size - start))?;
        for (parts, x) in parts.iter_mut().zip(&hidden) {
            parts.push(linear_cross_entropy::logits(x, &rows)?);
        }
    }
    parts.iter().map(|parts| Ok(Tensor::cat(parts, 1)?)).collect()
}

/// The embeddings of every sequence, `[S, H]`; each row is read once.
fn embed(pretrained: &Pretrained, sequences: &[Vec<u32>]) -> Result<Vec<Tensor>> {
    let mut rows = BTreeMap::new();
    for &id in sequences.iter().flatten() {
        let vocabulary = pretrained.config.vocab_size;
        if id as usize >= vocabulary {
            let what = format!("token id {id} is outside the model's vocabulary of {vocabulary}");
            return Err(Error::data("", what, "Use the tokenizer that belongs to the model."));
        }
        if let std::collections::btree_map::Entry::Vacant(entry) = rows.entry(id) {
            entry.insert(pretrained.weights.rows(EMBED_TOKENS, id as usize, 1)?);
        }
    }
    let embed = |ids: &Vec<u32>| {
        let rows: Vec<&Tensor> = ids.iter().filter_map(|id| rows.get(id)).collect();
        Ok(Tensor::cat(&rows, 0)?)
    };
    sequences.iter().map(embed).collect()
}
