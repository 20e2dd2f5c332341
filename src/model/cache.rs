//! Keys and values of the tokens that a sequence has so far.

use super::Decoder;
use crate::{Error, Result};
use candle_core::Tensor;

/// The KV cache of one sequence: for each block, `[capacity, n_kv·head_dim]` keys and values, written in place.
#[derive(Debug)]
pub struct SequenceCache {
    pub(super) layers: Vec<(Tensor, Tensor)>,
    len: usize,
    capacity: usize,
}

impl SequenceCache {
    /// An empty cache with room for `capacity` tokens.
    pub fn new(decoder: &Decoder, capacity: usize) -> Result<Self> {
        let width = decoder.config.num_key_value_heads * decoder.config.head_dim;
        let zeros = || Tensor::zeros((capacity.max(1), width), decoder.dtype(), decoder.device());
        let layers = (0..decoder.blocks.len()).map(|_| Ok((zeros()?, zeros()?))).collect::<Result<_>>()?;
        Ok(Self { layers, len: 0, capacity })
    }

    /// How many tokens it holds.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Checks that `n` more tokens fit.
    ///
    /// Errors: [`Error::Shape`].
    pub(super) fn reserve(&self, n: usize) -> Result<()> {
        if self.len + n > self.capacity {
            let what = format!("{} tokens and {n} more do not fit into {}", self.len, self.capacity);
            return Err(Error::Shape { op: "KV cache", what });
        }
        Ok(())
    }

    /// Writes the keys and values `[n, n_kv·head_dim]` of new tokens behind those of block `index`.
    pub(super) fn write(&self, index: usize, k: &Tensor, v: &Tensor) -> Result<()> {
        let (keys, values) = &self.layers[index];
        keys.slice_set(&k.contiguous()?, 0, self.len)?;
        Ok(values.slice_set(&v.contiguous()?, 0, self.len)?)
    }

    /// Counts `n` tokens whose keys and values every block has written.
    pub(super) fn advance(&mut self, n: usize) {
        self.len += n;
    }
}
