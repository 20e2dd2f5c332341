//! The result of a product, written by several threads at once.

use super::kernel::{TileRow, WIDTH};
use crate::ops::cpu::dropout::Mask;
use crate::ops::cpu::element::Element;
use crate::ops::cpu::simd::vectorized;
use half::bf16;
use rayon::prelude::*;
use std::ops::Range;

/// What happens to the destination's old elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Old {
    Overwrite,
    Add,
}

/// Which threads a product runs on.
#[derive(Clone, Copy)]
pub(crate) enum Threads {
    /// Only the calling one; for use inside a rayon task.
    One,
    /// Those of the current rayon pool.
    Pool,
}

/// A row-major matrix to write, f32 or bf16.
pub(crate) enum Into<'a> {
    F32(&'a mut [f32]),
    Bf16(&'a mut [bf16]),
}

impl Into<'_> {
    /// Cuts the result `[rows, cols]`, whose rows start `stride` apart, into blocks of at most `height` rows and `width`
    /// columns, and calls `body` with each of them once.
    ///
    /// Panics if rows overlap or lie outside the values.
    pub(super) fn for_each_block(
        self,
        [rows, cols, stride]: [usize; 3],
        [height, width]: [usize; 2],
        threads: Threads,
        body: impl Fn(Block) + Sync,
    ) {
        let (len, values) = match self {
            Self::F32(values) => (values.len(), Pointer::F32(values.as_mut_ptr())),
            Self::Bf16(values) => (values.len(), Pointer::Bf16(values.as_mut_ptr())),
        };
        let end = rows.checked_sub(1).map_or(Some(0), |last| last.checked_mul(stride)?.checked_add(cols));
        assert!(cols <= stride && end.is_some_and(|end| end <= len), "a {rows} x {cols} matrix of {len} values");
        let stacked = rows.div_ceil(height);
        let block = |i: usize| {
            let (row, column) = (i % stacked * height, i / stacked * width);
            Block { values, stride, rows: row..(row + height).min(rows), columns: column..(column + width).min(cols) }
        };
        let count = stacked * cols.div_ceil(width);
        match threads {
            Threads::One => (0..count).for_each(|i| body(block(i))),
            Threads::Pool => (0..count).into_par_iter().with_max_len(1).for_each(|i| body(block(i))),
        }
    }
}

/// Some rows and columns of the result, which nobody else has.
pub(super) struct Block {
    values: Pointer,
    /// From one row of the result to the next.
    stride: usize,
    rows: Range<usize>,
    columns: Range<usize>,
}

/// The most R rows of a tile on their way to a block, as sums and rounded. A row of sums is two cache lines, not parts of three.
#[repr(align(64))]
pub(super) struct Tile<const R: usize> {
    pub(super) sums: [TileRow; R],
    narrow: [[bf16; WIDTH]; R],
}

impl<const R: usize> Tile<R> {
    pub(super) fn zeros() -> Self {
        Self { sums: [[0.; WIDTH]; R], narrow: [[bf16::ZERO; WIDTH]; R] }
    }
}

#[derive(Clone, Copy)]
enum Pointer {
    F32(*mut f32),
    Bf16(*mut bf16),
}

// SAFETY: the pointer stands for a slice of plain numbers that `for_each_block` holds mutably; it makes disjoint blocks of
// it, gives each away once, and a block writes only its own elements.
unsafe impl Sync for Pointer {}
// SAFETY: the same.
unsafe impl Send for Pointer {}

impl Block {
    pub(super) fn rows(&self) -> Range<usize> {
        self.rows.clone()
    }

    pub(super) fn columns(&self) -> Range<usize> {
        self.columns.clone()
    }

    /// Zeroes those elements of `tile`, which stand for `rows` and the panel of columns from `column` on, that the mask of the
    /// whole result does not keep.
    pub(super) fn mask(&self, rows: Range<usize>, column: usize, mask: &Mask, tile: &mut [TileRow]) {
        vectorized(
            #[inline(always)]
            || {
                for (row, values) in rows.clone().zip(tile.iter_mut()) {
                    mask.keep((row * self.stride + column) as u64, values);
                }
            },
        );
    }

    /// Writes `scale * tile` over, or adds it to, `rows` and `columns`, a panel's, of the block.
    pub(super) fn store<const R: usize>(
        &mut self,
        tile: &mut Tile<R>,
        [rows, columns]: [Range<usize>; 2],
        scale: f32,
        old: Old,
    ) {
        let Tile { sums: tile, narrow } = tile;
        let inside = |of: &Range<usize>, part: &Range<usize>| of.start <= part.start && part.end <= of.end;
        assert!(inside(&self.rows, &rows) && rows.len() <= tile.len(), "not its rows");
        assert!(inside(&self.columns, &columns) && columns.len() <= WIDTH, "not its columns");
        let width = columns.len();
        if let (Pointer::Bf16(to), Old::Overwrite, 1.) = (self.values, old, scale) {
            bf16::put(tile[..rows.len()].as_flattened(), narrow[..rows.len()].as_flattened_mut());
            for (row, values) in rows.zip(narrow) {
                let at = row * self.stride + columns.start;
                // SAFETY: these elements lie inside the slice and belong to this block alone; `for_each_block` holds the
                // slice until every block is gone.
                let to = unsafe { std::slice::from_raw_parts_mut(to.add(at), width) };
                match <&mut [bf16; WIDTH]>::try_from(&mut *to) {
                    // One register, not a call.
                    Ok(to) => *to = *values,
                    Err(_) => to.copy_from_slice(&values[..width]),
                }
            }
            return;
        }
        vectorized(
            #[inline(always)]
            || {
                for (row, sums) in rows.clone().zip(&*tile) {
                    let at = row * self.stride + columns.start;
                    match self.values {
                        Pointer::F32(to) => {
                            // SAFETY: as above.
                            let to = unsafe { std::slice::from_raw_parts_mut(to.add(at), width) };
                            put(to, sums, scale, old)
                        }
                        Pointer::Bf16(to) => {
                            // SAFETY: as above.
                            let to = unsafe { std::slice::from_raw_parts_mut(to.add(at), width) };
                            put(to, sums, scale, old)
                        }
                    }
                }
            },
        );
    }
}

/// Writes `scale * sums` over, or adds it to, as many numbers; for use inside `vectorized`.
#[inline(always)]
pub(super) fn put<T: Element>(to: &mut [T], sums: &TileRow, scale: f32, old: Old) {
    match <&mut [T; WIDTH]>::try_from(&mut *to) {
        // A length that the compiler knows makes whole vector instructions.
        Ok(to) => put_each(to, sums, scale, old),
        Err(_) => put_each(to, sums, scale, old),
    }
}

#[inline(always)]
fn put_each<T: Element>(to: &mut [T], sums: &[f32], scale: f32, old: Old) {
    if old == Old::Add {
        to.iter_mut().zip(sums).for_each(|(to, sum)| *to = T::of(to.get() + scale * sum));
    } else {
        to.iter_mut().zip(sums).for_each(|(to, sum)| *to = T::of(scale * sum));
    }
}
