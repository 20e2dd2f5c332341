//! Keys and values of the tokens that a sequence has so far.

use super::Decoder;
use crate::{Error, Result};
use candle_core::Tensor;

/// Tokens that a new cache has memory for; it doubles as they come.
const FIRST_ROOM: usize = 256;

/// The KV cache of one sequence: for each block, `[room, n_kv·head_dim]` keys and values, written in place.
#[derive(Debug)]
pub struct SequenceCache {
    pub(super) layers: Vec<(Tensor, Tensor)>,
    len: usize,
    room: usize,
    capacity: usize,
}

impl SequenceCache {
    /// An empty cache that can grow to `capacity` tokens, the decoder's virtual ones not counted.
    pub fn new(decoder: &Decoder, capacity: usize) -> Result<Self> {
        let capacity = capacity.saturating_add(decoder.virtual_tokens());
        let width = decoder.config.num_key_value_heads * decoder.config.head_dim;
        let room = capacity.clamp(1, FIRST_ROOM);
        let zeros = || Tensor::zeros((room, width), decoder.dtype(), decoder.device());
        let layers = (0..decoder.blocks.len()).map(|_| Ok((zeros()?, zeros()?))).collect::<Result<_>>()?;
        Ok(Self { layers, len: 0, room, capacity })
    }

    /// How many tokens it holds.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Makes room for `n` more tokens.
    ///
    /// Errors: [`Error::Shape`] beyond the capacity.
    pub(super) fn reserve(&mut self, n: usize) -> Result<()> {
        let needed = self.len + n;
        if needed > self.capacity {
            let what = format!("{} tokens and {n} more do not fit into {}", self.len, self.capacity);
            return Err(Error::Shape { op: "KV cache", what });
        }
        if needed <= self.room {
            return Ok(());
        }
        let room = needed.max(2 * self.room).min(self.capacity);
        let grown = |old: &Tensor| -> Result<Tensor> {
            let new = Tensor::zeros((room, old.dim(1)?), old.dtype(), old.device())?;
            if self.len > 0 {
                new.slice_set(&old.narrow(0, 0, self.len)?.contiguous()?, 0, 0)?;
            }
            Ok(new)
        };
        let layers = self.layers.iter().map(|(k, v)| Ok((grown(k)?, grown(v)?))).collect::<Result<_>>()?;
        self.layers = layers;
        self.room = room;
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
