//! Right factors that are packed once for several products, each on the calling thread.

use super::Right;
use super::kernel::{Kernel, Out, Rows, WIDTH, panel_len};
use super::operand::Operand;
use super::result::Old;
use crate::ops::cpu::element::Element;
use std::ops::Range;

/// A right factor `[k, n]` in panels of 32 columns, zeros beyond its last row and column.
#[derive(Clone, Copy)]
pub(crate) struct Panels<'a, N> {
    packed: &'a [N],
    /// Elements of a panel.
    len: usize,
}

impl<T: Element> Right<'_, T> {
    /// How many numbers [`Self::pack`] wants.
    pub(crate) fn packed_len<K: Kernel>(&self) -> usize {
        let (k, n) = self.shape();
        panel_len::<K>(k) * n.div_ceil(WIDTH)
    }

    /// Packs all of it for `kernel` into the first of `room`.
    pub(crate) fn pack<'a, K: Kernel>(&self, kernel: K, room: &'a mut [K::Number]) -> Panels<'a, K::Number>
    where
        T: Operand<K::Number>,
    {
        let (k, n) = self.shape();
        let (len, room) = (panel_len::<K>(k), &mut room[..self.packed_len::<K>()]);
        for (panel, column) in room.chunks_exact_mut(len.max(1)).zip((0..n).step_by(WIDTH)) {
            self.pack_panel(kernel, column, panel);
        }
        Panels { packed: room, len }
    }

    /// Packs the panel of the columns from `column` on.
    pub(super) fn pack_panel<K: Kernel>(&self, kernel: K, column: usize, panel: &mut [K::Number])
    where
        T: Operand<K::Number>,
    {
        match self {
            Self::Plain(w) => w.pack_columns(kernel, column, panel),
            Self::Transposed(w) => w.pack_rows(kernel, column, panel),
        }
    }
}

impl<N: Copy> Panels<'_, N> {
    /// `out = a·b`, plus what was there for [`Old::Add`], for the first `count` rows `a` and the part `b` of this factor from
    /// row `first` on, as many as `a` has columns, and of `columns`.
    ///
    /// Rows of `out` have as many elements as panels that hold `columns`; what stands after the last column is unspecified.
    /// `first` is a multiple of [`Kernel::DEPTH`], the first column one of 32. Panics if a factor or the result is too small.
    pub(crate) fn multiply<K: Kernel<Number = N>>(
        &self,
        kernel: K,
        a: &Rows<N>,
        count: usize,
        first: usize,
        columns: Range<usize>,
        out: Out,
        old: Old,
    ) {
        assert!(first.is_multiple_of(K::DEPTH) && columns.start.is_multiple_of(WIDTH), "not at a step or panel");
        let part = first * WIDTH..(first + a.k) * WIDTH;
        for start in (0..count).step_by(K::HEIGHT) {
            let rows = K::HEIGHT.min(count - start);
            let a = a.from(start);
            let panels = self.packed[columns.start / WIDTH * self.len..].chunks_exact(self.len.max(1));
            for (panel, column) in panels.zip((0..columns.len()).step_by(WIDTH)) {
                let to = Out { values: &mut out.values[start * out.stride + column..], stride: out.stride };
                let size = [rows, WIDTH.min(columns.len() - column)];
                kernel.tile(size, &[a], &panel[part.clone()], to, old);
            }
        }
    }
}
