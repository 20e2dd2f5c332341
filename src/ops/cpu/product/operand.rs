//! How numbers that are stored in one type are multiplied in another.

use super::kernel::{Kernel, Rows, TileRow};
use super::result::Threads;
use super::source::Source;
use crate::ops::cpu::element::Element;
use crate::ops::cpu::scratch;
use crate::ops::cpu::simd::vectorized;
use half::bf16;
use rayon::prelude::*;
use std::ops::Range;

/// Rows that a task takes.
const TOGETHER: usize = 64;

/// A stored type whose values are multiplied as N.
pub(crate) trait Operand<N: Element>: Element {
    /// Calls `body` with the first `count` rows of each of `terms`, as N.
    fn with_rows<R>(terms: &[Rows<Self>], count: usize, threads: Threads, body: impl FnOnce(&[Rows<N>]) -> R) -> R;

    /// [`Kernel::pack_rows`], if the kernel can read this type.
    fn pack_rows<K: Kernel<Number = N>>(_: K, _w: &Source<Self>, _row: usize, _panel: &mut [N]) -> bool {
        false
    }

    /// [`Kernel::pack_columns`], if the kernel can read this type.
    fn pack_columns<K: Kernel<Number = N>>(_: K, _w: &Source<Self>, _column: usize, _panel: &mut [N]) -> bool {
        false
    }

    /// [`Kernel::add_dots`], if the kernel can read this type.
    fn add_dots<K: Kernel<Number = N>>(
        _: K,
        _a: &Rows<Self>,
        _w: &Source<Self>,
        _rows: Range<usize>,
        _: &mut [TileRow],
    ) -> bool {
        false
    }
}

impl<T: Element> Operand<T> for T {
    fn with_rows<R>(terms: &[Rows<T>], _: usize, _: Threads, body: impl FnOnce(&[Rows<T>]) -> R) -> R {
        body(terms)
    }

    fn pack_rows<K: Kernel<Number = T>>(kernel: K, w: &Source<T>, row: usize, panel: &mut [T]) -> bool {
        kernel.pack_rows(w, row, panel)
    }

    fn pack_columns<K: Kernel<Number = T>>(kernel: K, w: &Source<T>, column: usize, panel: &mut [T]) -> bool {
        kernel.pack_columns(w, column, panel)
    }

    fn add_dots<K: Kernel<Number = T>>(
        kernel: K,
        a: &Rows<T>,
        w: &Source<T>,
        rows: Range<usize>,
        sums: &mut [TileRow],
    ) -> bool {
        kernel.add_dots(a, w, rows, sums)
    }
}

/// Where no instruction multiplies bf16: products of bf16 are exact in f32.
impl Operand<f32> for bf16 {
    fn with_rows<R>(terms: &[Rows<bf16>], count: usize, threads: Threads, body: impl FnOnce(&[Rows<f32>]) -> R) -> R {
        let len = terms.iter().map(|t| t.k * count).sum();
        scratch::with(len, |wide: &mut [f32]| {
            let mut rest = &mut *wide;
            let mut rows = Vec::with_capacity(terms.len());
            for term in terms {
                let (now, later) = rest.split_at_mut(term.k * count);
                rest = later;
                let k = term.k.max(1);
                let widen = |(i, to): (usize, &mut [f32])| {
                    vectorized(
                        #[inline(always)]
                        || {
                            for (row, to) in to.chunks_exact_mut(k).enumerate() {
                                let from = term.row(i * TOGETHER + row);
                                to.iter_mut().zip(from).for_each(|(to, v)| *to = v.get());
                            }
                        },
                    );
                };
                match threads {
                    Threads::One => now.chunks_mut(TOGETHER * k).enumerate().for_each(widen),
                    Threads::Pool => now.par_chunks_mut(TOGETHER * k).enumerate().for_each(widen),
                }
                rows.push(Rows { data: &*now, stride: term.k, k: term.k });
            }
            body(&rows)
        })
    }
}
