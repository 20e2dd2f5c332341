//! Attention block by block; see `ops::attention` for the mathematics.
//!
//! A task multiplies with one kernel, packs each right factor once for all products that it is in, and has scores only of a
//! block. Queries, keys and values are read where they lie, a head being some columns of the rows. The half of the scores that
//! the mask hides is computed only where a tile crosses the diagonal.

mod backward;
mod forward;

pub(crate) use backward::backward;
pub(crate) use forward::{cached, forward};

use crate::ops::cpu::element::Element;
use crate::ops::cpu::product::{Right, Rows, Source, Values};
use std::ops::Range;

/// Keys in forward, queries in backward, that a block of scores has at most.
const BLOCK: usize = 256;

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

impl<'a, T: Element> View<'a, T> {
    /// This matrix as the left factor of a product.
    fn left(self) -> Rows<'a, T> {
        Rows { data: self.data, stride: self.stride, k: self.cols }
    }

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

/// Numbers that are added or compared side by side.
const LANES: usize = 32;

/// The sum of `row`, in the order that keeps vector registers busy.
#[inline(always)]
fn sum(row: &[[f32; LANES]]) -> f32 {
    let mut sums = [0f32; LANES];
    for chunk in row {
        for i in 0..LANES {
            sums[i] += chunk[i];
        }
    }
    halves(sums, |a, b| a + b)
}

/// The maximum of `row`; ignores NaN, which the exponential then brings back.
#[inline(always)]
fn max(row: &[[f32; LANES]]) -> f32 {
    let larger = |a: f32, b: f32| if a > b { a } else { b };
    let mut maxima = [f32::NEG_INFINITY; LANES];
    for chunk in row {
        for i in 0..LANES {
            maxima[i] = larger(chunk[i], maxima[i]);
        }
    }
    halves(maxima, larger)
}

/// Joins element i of the first half with element i of the second, until one is left.
#[inline(always)]
fn halves(mut row: [f32; LANES], join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES / 2;
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
