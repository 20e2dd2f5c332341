//! Attention block by block; see `ops::attention` for the mathematics.
//!
//! Scores exist only as tiles of at most 64 × 64, per task. Queries, keys and values are read where they lie, a head
//! being some columns of the rows. The half of the scores that the mask hides is never computed.

mod backward;
mod forward;

pub(crate) use backward::backward;
pub(crate) use forward::{cached, forward};

use crate::ops::cpu::product::{Factor, Into, Old, Right, Source, Term, Threads, Values, product_strided};
use std::ops::Range;

/// Keys per tile, and the most queries per tile.
const TILE: usize = 64;

/// A row-major matrix inside a larger one: row `i` is `data[i * stride..][..cols]`.
#[derive(Clone, Copy)]
struct View<'a, T> {
    data: &'a [T],
    rows: usize,
    cols: usize,
    stride: usize,
}

/// The columns of one head in `rows` of a matrix of `width` columns.
fn head<T>(data: &[T], width: usize, rows: Range<usize>, head: usize, head_dim: usize) -> View<'_, T> {
    View { data: &data[rows.start * width + head * head_dim..], rows: rows.len(), cols: head_dim, stride: width }
}

impl<'a, T: Factor> View<'a, T> {
    /// This matrix as the right factor of a product.
    fn plain(self) -> Right<'a, T> {
        Right::Plain(self.source())
    }

    /// Its transpose as the right factor of a product.
    fn transposed(self) -> Right<'a, T> {
        Right::Transposed(self.source())
    }

    fn source(self) -> Source<'a, T> {
        Source::strided(Values::Dense(self.data), self.rows, self.cols, self.stride)
    }
}

/// `c = scale·a·b` on the calling thread, plus the old `c` for [`Old::Add`]; rows of `c` start `stride` apart.
fn multiply<T: Factor>(scale: f32, a: View<T>, b: Right<T>, c: &mut [f32], stride: usize, old: Old) {
    let shape = [a.rows, b.shape().1, stride];
    product_strided(shape, scale, &[Term { a: a.data, stride: a.stride, b }], Into::F32(c), old, Threads::One);
}

/// Sum of a row, in the order that keeps vector registers busy.
#[inline(always)]
fn sum(row: &[f32; TILE]) -> f32 {
    halves(*row, |a, b| a + b)
}

/// Maximum of a row; ignores NaN, which the exponential then brings back.
#[inline(always)]
fn max(row: &[f32; TILE]) -> f32 {
    halves(*row, |a, b| if a > b { a } else { b })
}

/// Joins element i of the first half with element i of the second, until one is left.
#[inline(always)]
fn halves(mut row: [f32; TILE], join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = TILE / 2;
    while width > 0 {
        for i in 0..width {
            row[i] = join(row[i], row[i + width]);
        }
        width /= 2;
    }
    row[0]
}

/// Consecutive blocks of at most `size` rows that do not cross the bounds of sequences: sequence and rows.
fn blocks(cu_seqlens: &[usize], size: usize) -> Vec<(usize, Range<usize>)> {
    let mut blocks = Vec::new();
    for (sequence, bounds) in cu_seqlens.windows(2).enumerate() {
        let starts = (bounds[0]..bounds[1]).step_by(size);
        blocks.extend(starts.map(|start| (sequence, start..(start + size).min(bounds[1]))));
    }
    blocks
}

/// Takes the first `count` elements off `rest`.
fn take<'a, T>(rest: &mut &'a mut [T], count: usize) -> &'a mut [T] {
    let (first, later) = std::mem::take(rest).split_at_mut(count);
    *rest = later;
    first
}
