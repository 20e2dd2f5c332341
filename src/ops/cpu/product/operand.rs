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
    /// Calls `body` with the first `count` rows of each of `terms` as N, filled up with zeros to a multiple of `depth`.
    fn with_rows<R>(
        terms: &[Rows<Self>],
        count: usize,
        depth: usize,
        threads: Threads,
        body: impl FnOnce(&[Rows<N>]) -> R,
    ) -> R;

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
    fn with_rows<R>(
        terms: &[Rows<T>],
        count: usize,
        depth: usize,
        threads: Threads,
        body: impl FnOnce(&[Rows<T>]) -> R,
    ) -> R {
        if terms.iter().all(|term| term.k.is_multiple_of(depth)) {
            return body(terms);
        }
        converted(terms, count, depth, threads, |v| v, body)
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
    fn with_rows<R>(
        terms: &[Rows<bf16>],
        count: usize,
        depth: usize,
        threads: Threads,
        body: impl FnOnce(&[Rows<f32>]) -> R,
    ) -> R {
        converted(terms, count, depth, threads, Element::get, body)
    }
}

/// [`Operand::with_rows`] on copies.
fn converted<T: Element, N: Element, R>(
    terms: &[Rows<T>],
    count: usize,
    depth: usize,
    threads: Threads,
    convert: impl Fn(T) -> N + Sync,
    body: impl FnOnce(&[Rows<N>]) -> R,
) -> R {
    let width = |term: &Rows<T>| term.k.next_multiple_of(depth);
    scratch::with(terms.iter().map(|t| width(t) * count).sum(), |copies: &mut [N]| {
        let mut rest = &mut *copies;
        let mut rows = Vec::with_capacity(terms.len());
        for term in terms {
            let k = width(term);
            let (now, later) = rest.split_at_mut(k * count);
            rest = later;
            let copy = |(i, to): (usize, &mut [N])| {
                vectorized(
                    #[inline(always)]
                    || {
                        for (row, to) in to.chunks_exact_mut(k.max(1)).enumerate() {
                            let (to, zeros) = to.split_at_mut(term.k);
                            to.iter_mut().zip(term.row(i * TOGETHER + row)).for_each(|(to, v)| *to = convert(*v));
                            zeros.fill(N::of(0.));
                        }
                    },
                );
            };
            match threads {
                Threads::One => now.chunks_mut(TOGETHER * k.max(1)).enumerate().for_each(copy),
                Threads::Pool => now.par_chunks_mut(TOGETHER * k.max(1)).enumerate().for_each(copy),
            }
            rows.push(Rows { data: &*now, stride: k, k });
        }
        body(&rows)
    })
}
