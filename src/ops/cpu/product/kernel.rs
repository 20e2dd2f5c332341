//! What an instruction set has to do for a product: one file fills in one [`Kernel`].

use super::source::Source;
use crate::ops::cpu::element::Element;
use crate::ops::cpu::simd::vectorized;
use half::bf16;
use std::ops::Range;

/// Columns of a panel.
pub(crate) const WIDTH: usize = 32;

/// A row of a tile of the result.
pub(crate) type TileRow = [f32; WIDTH];

/// Rows of the left factor: row `i` is `data[i * stride..][..k]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a, T> {
    pub(crate) data: &'a [T],
    pub(crate) stride: usize,
    pub(crate) k: usize,
}

impl<T: Copy> Rows<'_, T> {
    /// Whether there are `count` rows inside the data.
    pub(crate) fn hold(&self, count: usize) -> bool {
        count.checked_sub(1).and_then(|last| last.checked_mul(self.stride)?.checked_add(self.k))
            <= Some(self.data.len())
    }

    /// Those from row `start` on.
    pub(crate) fn from(&self, start: usize) -> Self {
        Self { data: &self.data[start * self.stride..], ..*self }
    }

    /// Panics if it is outside the data.
    #[inline(always)]
    pub(crate) fn row(&self, i: usize) -> &[T] {
        &self.data[i * self.stride..][..self.k]
    }
}

/// One instruction set.
///
/// A panel holds 32 columns of the right factor B. [`Self::GROUP`] of its rows lie together, column by column: element
/// `(l, c)` is `panel[(l / GROUP * 32 + c) * GROUP + l % GROUP]`. Rows beyond B's last are zero.
pub(crate) trait Kernel: Copy + Send + Sync {
    /// What the factors are when they are multiplied.
    type Number: Element;

    /// Rows of a tile at most.
    const HEIGHT: usize;

    /// Rows of B that lie together in a panel.
    const GROUP: usize;

    /// A panel has a multiple of so many rows, itself one of [`Self::GROUP`].
    const DEPTH: usize;

    /// Elements of the panels, one at least, that a task packs together. More of them are fewer passes over the left factor, and
    /// results written along their rows: for a kernel so fast that it waits for both.
    const PACKED: usize = 0;

    /// What makes a thread ready for tiles; see [`Self::hold`].
    type Hold;

    /// Makes the calling thread ready for tiles until the result is dropped. [`Self::tile`] does so itself, at a cost that
    /// whoever computes many tiles saves by holding one of these meanwhile.
    fn hold(self) -> Self::Hold;

    /// The first rows and, at least, columns of `out`, as many as `size` says, become `Σ a·panel` over the terms, whose
    /// panels follow each other in `panels`. Sums are f32. Panics unless the factors fit together, and each term has whole
    /// steps of [`Self::DEPTH`].
    fn tile(self, size: [usize; 2], terms: &[Rows<Self::Number>], panels: &[Self::Number], out: &mut [TileRow]);

    /// Writes `scale * sums`, rounded to nearest, ties to even.
    fn narrow(self, sums: &[TileRow], scale: f32, out: &mut [[bf16; WIDTH]]) {
        vectorized(
            #[inline(always)]
            || {
                for (out, sums) in out.iter_mut().zip(sums) {
                    out.iter_mut().zip(sums).for_each(|(out, sum)| *out = bf16::of(scale * sum));
                }
            },
        );
    }

    /// Fills `panel` with `B = Wᵀ` for the 32 rows of `w` from `row` on, if this set has a fast way for `w`.
    fn pack_rows(self, _w: &Source<Self::Number>, _row: usize, _panel: &mut [Self::Number]) -> bool {
        false
    }

    /// Fills `panel` with `B = W` for the 32 columns of `w` from `column` on, if this set has a fast way for `w`.
    fn pack_columns(self, _w: &Source<Self::Number>, _column: usize, _panel: &mut [Self::Number]) -> bool {
        false
    }

    /// Adds to `sums[i][j]` the product of row `i` of `a` and row `rows.start + j` of `w`, if this set has a fast way for `w`.
    fn add_dots(
        self,
        _a: &Rows<Self::Number>,
        _w: &Source<Self::Number>,
        _rows: Range<usize>,
        _sums: &mut [TileRow],
    ) -> bool {
        false
    }
}

/// Elements of a panel of `k` rows.
pub(crate) fn panel_len<K: Kernel>(k: usize) -> usize {
    k.next_multiple_of(K::DEPTH) * WIDTH
}
