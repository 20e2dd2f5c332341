//! What an instruction set has to do for a product: one file fills in one [`Kernel`].

use super::result::Old;
use super::source::Source;
use crate::ops::cpu::element::Element;
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

/// A row-major matrix of f32 to write: its first elements, and from one row to the next.
pub(crate) struct Out<'a> {
    pub(crate) values: &'a mut [f32],
    pub(crate) stride: usize,
}

impl Out<'_> {
    /// Whether there are `count` rows of a panel.
    pub(super) fn hold(&self, count: usize) -> bool {
        Rows { data: &*self.values, stride: self.stride, k: WIDTH }.hold(count)
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
    /// panels follow each other in `panels`, or that is added to them; [`Old::Overwrite`] takes no notice of what was there,
    /// infinite or NaN. Sums are f32. Panics unless the factors fit together, each term has whole steps of [`Self::DEPTH`],
    /// and `out` has the rows, of 32 numbers whatever `size` says.
    fn tile(self, size: [usize; 2], terms: &[Rows<Self::Number>], panels: &[Self::Number], out: Out, old: Old);

    /// Fills `panel` with `B = Wᵀ` for the 32 rows of `w` from `row` on, if this set has a fast way for `w`.
    fn pack_rows(self, _w: &Source<Self::Number>, _row: usize, _panel: &mut [Self::Number]) -> bool {
        false
    }

    /// Fills `panel` with `B = W` for the at most 32 columns of `w` from `column` on, zeros for more, if this set has a fast way
    /// for `w`.
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
