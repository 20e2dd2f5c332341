//! The right factor of a product, as it lies in memory, and its way into panels.

use super::kernel::{Kernel, Rows, TileRow, WIDTH, panel_len};
use super::operand::Operand;
use crate::ops::cpu::decode::Blocks;
use crate::ops::cpu::element::Element;
use crate::ops::cpu::scratch;
use crate::ops::cpu::simd::vectorized;
use std::ops::Range;

/// Elements of W's rows that are transposed at a time.
const STRIP: usize = 64;

/// A row-major matrix W, whose rows start `stride` elements apart.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a, T> {
    pub(super) values: Values<'a, T>,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) stride: usize,
}

/// Its elements, one row after another. What is in 4 bits is worth what it rounds to in T.
#[derive(Clone, Copy)]
pub(crate) enum Values<'a, T> {
    Dense(&'a [T]),
    Blocks(&'a Blocks<'a>),
}

impl<'a, T: Element> Source<'a, T> {
    /// A matrix without gaps. Panics unless there are `rows * cols` values.
    pub(crate) fn new(values: Values<'a, T>, rows: usize, cols: usize) -> Self {
        Self::strided(values, rows, cols, cols)
    }

    /// [`Source::new`] of a slice.
    pub(crate) fn dense(values: &'a [T], rows: usize, cols: usize) -> Self {
        Self::new(Values::Dense(values), rows, cols)
    }

    /// Panics unless all elements are among the values.
    pub(crate) fn strided(values: Values<'a, T>, rows: usize, cols: usize, stride: usize) -> Self {
        let len = match values {
            Values::Dense(values) => values.len(),
            Values::Blocks(blocks) => blocks.len(),
        };
        let end = rows.checked_sub(1).map_or(Some(0), |last| last.checked_mul(stride)?.checked_add(cols));
        assert!(end.is_some_and(|end| end <= len), "a {rows} x {cols} matrix of {len} values");
        Self { values, rows, cols, stride }
    }

    /// The values from `first` on, for use inside `vectorized`.
    #[inline(always)]
    pub(super) fn read<N: Element>(&self, first: usize, out: &mut [N]) {
        match self.values {
            Values::Dense(values) => {
                let values = &values[first..][..out.len()];
                out.iter_mut().zip(values).for_each(|(out, v)| *out = N::of(v.get()));
            }
            Values::Blocks(blocks) => {
                let mut wide = [0f32; STRIP];
                for (i, out) in out.chunks_mut(STRIP).enumerate() {
                    let wide = &mut wide[..out.len()];
                    blocks.decode_here(first + i * STRIP, wide);
                    out.iter_mut().zip(&*wide).for_each(|(out, &v)| *out = N::of(T::of(v).get()));
                }
            }
        }
    }

    /// `B = Wᵀ` for the rows of W from `row` on; columns of the panel beyond W's last row are zero.
    pub(crate) fn pack_rows<K: Kernel>(&self, kernel: K, row: usize, panel: &mut [K::Number])
    where
        T: Operand<K::Number>,
    {
        let count = WIDTH.min(self.rows - row);
        if count == WIDTH && T::pack_rows(kernel, self, row, panel) {
            return;
        }
        panel[self.cols / K::GROUP * K::GROUP * WIDTH..].fill(K::Number::of(0.));
        scratch::with(WIDTH * STRIP, |strip: &mut [K::Number]| {
            vectorized(
                #[inline(always)]
                || {
                    strip[count * STRIP..].fill(K::Number::of(0.));
                    for start in (0..self.cols).step_by(STRIP) {
                        let len = STRIP.min(self.cols - start);
                        for (i, strip) in strip.chunks_exact_mut(STRIP).take(count).enumerate() {
                            self.read((row + i) * self.stride + start, &mut strip[..len]);
                        }
                        let groups = panel[start * WIDTH..].chunks_exact_mut(K::GROUP * WIDTH);
                        for (group, l) in groups.zip((0..len).step_by(K::GROUP)) {
                            for in_group in 0..K::GROUP.min(len - l) {
                                let column = strip[l + in_group..].iter().step_by(STRIP);
                                group[in_group..].iter_mut().step_by(K::GROUP).zip(column).for_each(|(to, v)| *to = *v);
                            }
                        }
                    }
                },
            );
        });
    }

    /// `B = W` for the columns of W from `column` on; columns of the panel beyond W's last are zero.
    pub(crate) fn pack_columns<K: Kernel>(&self, kernel: K, column: usize, panel: &mut [K::Number])
    where
        T: Operand<K::Number>,
    {
        if T::pack_columns(kernel, self, column, panel) {
            return;
        }
        let count = WIDTH.min(self.cols - column);
        panel[self.rows / K::GROUP * K::GROUP * WIDTH..panel_len::<K>(self.rows)].fill(K::Number::of(0.));
        vectorized(
            #[inline(always)]
            || {
                let mut values = [K::Number::of(0.); WIDTH];
                for row in 0..self.rows {
                    self.read(row * self.stride + column, &mut values[..count]);
                    let group = &mut panel[row / K::GROUP * K::GROUP * WIDTH..][..K::GROUP * WIDTH];
                    let to = group[row % K::GROUP..].iter_mut().step_by(K::GROUP);
                    to.zip(&values).for_each(|(to, value)| *to = *value);
                }
            },
        );
    }

    /// Adds to `sums[i][j]` the product of row `i` of `a` and W's row `rows.start + j`.
    pub(crate) fn add_dots<K: Kernel>(&self, kernel: K, a: &Rows<T>, rows: Range<usize>, sums: &mut [TileRow])
    where
        T: Operand<K::Number>,
    {
        if T::add_dots(kernel, a, self, rows.clone(), sums) {
            return;
        }
        /// Elements that are added up side by side.
        const LANES: usize = 16;
        scratch::with(self.cols, |values: &mut [f32]| {
            vectorized(
                #[inline(always)]
                || {
                    for (j, row) in rows.clone().enumerate() {
                        self.read(row * self.stride, values);
                        let (w_chunks, w_rest) = values.as_chunks::<LANES>();
                        for (i, sums) in sums.iter_mut().enumerate() {
                            let (chunks, rest) = a.row(i).as_chunks::<LANES>();
                            let mut lanes = [0f32; LANES];
                            for (a, w) in chunks.iter().zip(w_chunks) {
                                for l in 0..LANES {
                                    lanes[l] += a[l].get() * w[l];
                                }
                            }
                            sums[j] += lanes.iter().sum::<f32>();
                            sums[j] += rest.iter().zip(w_rest).map(|(a, w)| a.get() * w).sum::<f32>();
                        }
                    }
                },
            );
        });
    }
}
