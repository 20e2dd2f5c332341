//! What an instruction set has to do for a product of bf16 matrices: one file fills in one [`Kernel`].

use super::source::Source;
use half::bf16;

/// Columns of a panel.
pub(crate) const WIDTH: usize = 32;
/// Rows of a tile at most.
pub(crate) const HEIGHT: usize = 12;

/// A tile of the result, row by row.
pub(crate) type Tile = [[f32; WIDTH]; HEIGHT];

/// The rows of the left factor that a tile takes: row `i` is `data[i * stride..][..k]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a> {
    pub(crate) data: &'a [bf16],
    pub(crate) stride: usize,
    pub(crate) k: usize,
}

impl Rows<'_> {
    /// Whether there are `count` rows inside the data.
    pub(crate) fn hold(&self, count: usize) -> bool {
        count.checked_sub(1).and_then(|last| last.checked_mul(self.stride)?.checked_add(self.k))
            <= Some(self.data.len())
    }
}

/// Where a pair of rows of the right factor lies in a panel: `(B[2p][c], B[2p + 1][c])` for the 32 columns c in turn. A
/// last row without a partner is paired with zeros.
pub(crate) const PAIR: usize = 2 * WIDTH;

/// Elements of a panel of `k` rows.
pub(crate) fn panel_len(k: usize) -> usize {
    k.div_ceil(2) * PAIR
}

/// One instruction set.
pub(crate) trait Kernel: Copy + Send + Sync {
    /// The first rows and, at least, columns of `out`, as many as `size` says, become `Σ a·panel` over the terms, whose panels follow
    /// each other in `panels`. Products of bf16 are exact, sums are f32. Panics unless the factors fit together.
    fn tile(self, size: [usize; 2], terms: &[Rows], panels: &[bf16], out: &mut Tile);

    /// Fills `panel` with `B = Wᵀ` for the 32 rows of `w` from `row` on, if this set has a fast way for `w`.
    fn pack_rows(self, w: &Source, row: usize, panel: &mut [bf16]) -> bool;

    /// Fills `panel` with `B = W` for the 32 columns of `w` from `column` on, if this set has a fast way for `w`.
    fn pack_columns(self, w: &Source, column: usize, panel: &mut [bf16]) -> bool;
}
