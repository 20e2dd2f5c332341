//! The right factor of a product, as it lies in memory, and its way into panels.

use super::kernel::{Kernel, PAIR, WIDTH};
use crate::ops::cpu::decode::Blocks;
use crate::ops::cpu::element::Element;
use crate::ops::cpu::scratch;
use half::bf16;

/// A row-major matrix W, whose rows start `stride` elements apart.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(super) values: Values<'a>,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) stride: usize,
}

/// Its elements, one row after another.
#[derive(Clone, Copy)]
pub(crate) enum Values<'a> {
    Bf16(&'a [bf16]),
    Blocks(&'a Blocks<'a>),
}

impl<'a> Source<'a> {
    /// A matrix without gaps. Panics unless there are `rows * cols` values.
    pub(crate) fn new(values: Values<'a>, rows: usize, cols: usize) -> Self {
        Self::strided(values, rows, cols, cols)
    }

    /// Panics unless all elements are among the values.
    pub(crate) fn strided(values: Values<'a>, rows: usize, cols: usize, stride: usize) -> Self {
        let len = match values {
            Values::Bf16(values) => values.len(),
            Values::Blocks(blocks) => blocks.len(),
        };
        let end = rows.checked_sub(1).map_or(Some(0), |last| last.checked_mul(stride)?.checked_add(cols));
        assert!(end.is_some_and(|end| end <= len), "a {rows} x {cols} matrix of {len} values");
        Self { values, rows, cols, stride }
    }

    /// The values from `first` on, rounded to bf16.
    fn read(&self, first: usize, out: &mut [bf16]) {
        match self.values {
            Values::Bf16(values) => out.copy_from_slice(&values[first..][..out.len()]),
            Values::Blocks(blocks) => scratch::with(out.len(), |wide: &mut [f32]| {
                blocks.decode_here(first, wide);
                out.iter_mut().zip(&*wide).for_each(|(out, &v)| *out = bf16::of(v));
            }),
        }
    }

    /// `B = Wᵀ` for the rows of W from `row` on; columns of the panel beyond W's last row are zero.
    pub(crate) fn pack_rows(&self, kernel: impl Kernel, row: usize, panel: &mut [bf16]) {
        let count = WIDTH.min(self.rows - row);
        if count == WIDTH && kernel.pack_rows(self, row, panel) {
            return;
        }
        panel.fill(bf16::ZERO);
        scratch::with(self.cols, |values: &mut [bf16]| {
            for column in 0..count {
                self.read((row + column) * self.stride, values);
                for (pair, values) in panel.chunks_exact_mut(PAIR).zip(values.chunks(2)) {
                    pair[2 * column..][..values.len()].copy_from_slice(values);
                }
            }
        });
    }

    /// `B = W` for the columns of W from `column` on; columns of the panel beyond W's last are zero.
    pub(crate) fn pack_columns(&self, kernel: impl Kernel, column: usize, panel: &mut [bf16]) {
        let count = WIDTH.min(self.cols - column);
        if count == WIDTH && kernel.pack_columns(self, column, panel) {
            return;
        }
        panel.fill(bf16::ZERO);
        let mut values = [bf16::ZERO; WIDTH];
        for row in 0..self.rows {
            self.read(row * self.stride + column, &mut values[..count]);
            let pair = &mut panel[row / 2 * PAIR..][..PAIR];
            for (slot, value) in pair[row % 2..].iter_mut().step_by(2).zip(&values[..count]) {
                *slot = *value;
            }
        }
    }
}
