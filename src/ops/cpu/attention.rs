//! Attention block by block; see `ops::attention` for the mathematics.
//!
//! Scores exist only as tiles of at most 64 × 64, per task. Queries, keys and values are read where they lie, a head
//! being some columns of the rows. The half of the scores that the mask hides is never computed.

mod backward;
mod forward;

pub(crate) use backward::backward;
pub(crate) use forward::{cached, forward};

use crate::ops::cpu::element::Element;
use crate::ops::cpu::gemm::Mat;
use crate::ops::cpu::simd::vectorized;
use std::ops::Range;

/// Keys per tile, and the most queries per tile.
const TILE: usize = 64;

/// A tile's scores: `TILE` columns per row, however many of them are in use.
type Tile = [[f32; TILE]];

/// The columns of one head in `rows` of a matrix of `width` columns, in f32: where they lie, or copied into `room`.
fn head<'a, T: Element>(
    data: &'a [T],
    width: usize,
    rows: Range<usize>,
    head: usize,
    head_dim: usize,
    room: &'a mut [f32],
) -> Mat<'a> {
    let (count, columns) = (rows.len(), head * head_dim..(head + 1) * head_dim);
    let data = &data[rows.start * width..rows.end * width];
    if let Some(data) = T::as_f32(data) {
        return Mat::new(data, count, width).columns(columns);
    }
    let room = &mut room[..count * head_dim];
    vectorized(
        #[inline(always)]
        || {
            for (to, from) in room.chunks_exact_mut(head_dim).zip(data.chunks_exact(width)) {
                to.iter_mut().zip(&from[columns.clone()]).for_each(|(to, from)| *to = from.get());
            }
        },
    );
    Mat::new(room, count, head_dim)
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
