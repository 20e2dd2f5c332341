//! One tensor to nibbles and back, block by block.
//!
//! The tensor is read flat, row after row, and cut into blocks of `blocksize` values; a block may span rows, the last
//! one may be short. Each block is divided by its largest magnitude, `absmax`, and every value becomes the nearest of
//! sixteen codes. Two nibbles make a byte, the earlier one high; an odd last value is followed by the nibble of zero.
//!
//! ```text
//! encode:  nibble[i] = nearest(values[i] * (1 / absmax[i / blocksize]))
//! decode:  values[i] = code[nibble[i]] * absmax[i / blocksize]
//! ```
//!
//! Rounding follows bitsandbytes' CPU path to the bit: a full block is multiplied by the reciprocal of absmax (not
//! divided by it), the short last block is divided; absmax is taken as at least 1e-38, which the short block also
//! stores.

use pulp::Arch;
use rayon::prelude::*;

use super::codebook::{Encoder, PairTable};

/// The least magnitude a block is divided by.
const LEAST_ABSMAX: f32 = 1e-38;

/// Values encoded at once.
const LANES: usize = 16;

/// Values per parallel task: enough to make a task worth its start. A multiple of every legal block.
const TASK: usize = 1 << 16;

/// Quantizes finite `values`; returns the packed nibbles, `ceil(len / 2)` bytes, and one absmax per block.
pub(super) fn encode(values: &[f32], blocksize: usize, code: &[f32; 16]) -> (Vec<u8>, Vec<f32>) {
    let encoder = Encoder::new(code);
    let mut packed = vec![0; values.len().div_ceil(2)];
    let mut absmax = vec![0.0; values.len().div_ceil(blocksize)];
    let tasks = values.par_chunks(TASK).zip(packed.par_chunks_mut(TASK / 2));
    tasks.zip(absmax.par_chunks_mut(TASK / blocksize)).for_each(|((values, packed), absmax)| {
        Arch::new().dispatch(|| {
            let blocks = values.chunks(blocksize).zip(packed.chunks_mut(blocksize / 2));
            for ((values, packed), absmax) in blocks.zip(absmax) {
                *absmax = encode_block(values, values.len() == blocksize, &encoder, packed);
            }
        });
    });
    (packed, absmax)
}

#[inline(always)]
fn encode_block(values: &[f32], full: bool, encoder: &Encoder, packed: &mut [u8]) -> f32 {
    let absmax = values.iter().fold(0.0, |m: f32, v| m.max(v.abs()));
    let divisor = absmax.max(LEAST_ABSMAX);
    let reciprocal = 1.0 / divisor;
    for (values, packed) in values.chunks(LANES).zip(packed.chunks_mut(LANES / 2)) {
        let mut scaled = [0.0; LANES];
        for (s, v) in scaled.iter_mut().zip(values) {
            *s = if full { v * reciprocal } else { v / divisor };
        }
        let nibbles = encoder.encode(scaled);
        for (byte, pair) in packed.iter_mut().zip(nibbles.as_chunks::<2>().0) {
            *byte = pair[0] << 4 | pair[1];
        }
    }
    if full { absmax } else { divisor }
}

/// Writes the values `start..start + out.len()` of a quantized tensor to `out`.
///
/// - `table`: from the tensor's sixteen codes
/// - `packed`: all of the tensor's bytes
/// - `absmax`: one per block of the whole tensor, decoded if it was nested
/// - `blocksize`: values per block
///
/// Runs on the calling thread and reads only the bytes it needs: callers decode a tile at a time, in parallel.
/// Panics if `packed` or `absmax` do not reach to the end of the range.
pub fn decode(table: &PairTable, packed: &[u8], absmax: &[f32], blocksize: usize, start: usize, out: &mut [f32]) {
    Arch::new().dispatch(|| {
        let (mut at, mut rest) = (start, out);
        while !rest.is_empty() {
            let block = at / blocksize;
            let take = ((block + 1) * blocksize - at).min(rest.len());
            let (piece, tail) = std::mem::take(&mut rest).split_at_mut(take);
            decode_piece(table, packed, at, absmax[block], piece);
            (at, rest) = (at + take, tail);
        }
    });
}

/// Decodes values from index `at` on that share one absmax.
#[inline(always)]
fn decode_piece(table: &PairTable, packed: &[u8], at: usize, absmax: f32, out: &mut [f32]) {
    let (low, out) = out.split_at_mut(at % 2);
    if let [value] = low {
        *value = table.0[packed[at / 2] as usize][1] * absmax;
    }
    let bytes = &packed[at.div_ceil(2)..][..out.len().div_ceil(2)];
    let (pairs, high) = out.as_chunks_mut::<2>();
    for (pair, &byte) in pairs.iter_mut().zip(bytes) {
        *pair = table.0[byte as usize].map(|code| code * absmax);
    }
    if let ([value], Some(&byte)) = (high, bytes.last()) {
        *value = table.0[byte as usize][0] * absmax;
    }
}

/// Decodes a whole tensor of `len` values, in parallel.
pub(super) fn decode_all(code: &[f32; 16], packed: &[u8], absmax: &[f32], blocksize: usize, len: usize) -> Vec<f32> {
    let table = PairTable::new(code);
    let mut out = vec![0.0; len];
    out.par_chunks_mut(TASK).enumerate().for_each(|(i, out)| decode(&table, packed, absmax, blocksize, i * TASK, out));
    out
}
