//! Products of bf16 matrices with f32 sums, the right factor decoded while it is used.
//!
//! The result is cut into panels of 32 columns. A task packs a panel of the right factor once, into the second-level
//! cache: from 4 bits, from bf16, transposed or not. Then it goes down the rows of the left factor, which is read where it
//! lies, in tiles of up to 12 rows. Several products with one result are one: their terms follow each other in the
//! inner loop, so that a low-rank branch costs what its rank is.
//!
//! Every element of the result is one sum in one order, whatever the number of threads.

#[cfg(target_arch = "x86_64")]
mod avx512bf16;
mod kernel;
mod result;
mod scalar;
mod source;

use crate::ops::cpu::gemm::{Old, Threads};
use crate::ops::cpu::scratch;
use half::bf16;
use kernel::{HEIGHT, Kernel, Rows, Tile, WIDTH, panel_len};
use result::Block;
pub(crate) use result::Into;
pub(crate) use source::{Source, Values};

/// Whether this processor multiplies bf16 faster than f32.
pub(crate) fn is_fast() -> bool {
    #[cfg(target_arch = "x86_64")]
    return avx512bf16::Avx512Bf16::new().is_some();
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// `a·b`, one part of a product.
#[derive(Clone, Copy)]
pub(crate) struct Term<'a> {
    /// The left factor's values; its row `i` starts at `i * stride`.
    pub(crate) a: &'a [bf16],
    pub(crate) stride: usize,
    pub(crate) b: Right<'a>,
}

/// The right factor.
#[derive(Clone, Copy)]
pub(crate) enum Right<'a> {
    /// W `[k, n]`
    Plain(Source<'a>),
    /// Wᵀ for W `[n, k]`
    Transposed(Source<'a>),
}

impl<'a> Term<'a> {
    /// The product of the contiguous `a` and `w`.
    pub(crate) fn plain(a: &'a [bf16], w: Source<'a>) -> Self {
        Self { a, stride: w.rows, b: Right::Plain(w) }
    }

    /// The product of the contiguous `a` and the transpose of `w`.
    pub(crate) fn transposed(a: &'a [bf16], w: Source<'a>) -> Self {
        Self { a, stride: w.cols, b: Right::Transposed(w) }
    }
}

impl Right<'_> {
    /// k and n.
    fn shape(&self) -> (usize, usize) {
        match self {
            Self::Plain(w) => (w.rows, w.cols),
            Self::Transposed(w) => (w.cols, w.rows),
        }
    }

    fn pack(&self, kernel: impl Kernel, column: usize, panel: &mut [bf16]) {
        match self {
            Self::Plain(w) => w.pack_columns(kernel, column, panel),
            Self::Transposed(w) => w.pack_rows(kernel, column, panel),
        }
    }
}

/// `into [m, n] = scale * Σ a·b` over the terms, plus what was there for [`Old::Add`].
///
/// Panics if the factors do not fit together.
pub(crate) fn product(m: usize, n: usize, scale: f32, terms: &[Term], into: Into, old: Old, threads: Threads) {
    product_strided([m, n, n], scale, terms, into, old, threads);
}

/// The same into a matrix `[m, n]` whose rows start `stride` apart, for `[m, n, stride]`.
pub(crate) fn product_strided(shape: [usize; 3], scale: f32, terms: &[Term], into: Into, old: Old, threads: Threads) {
    #[cfg(target_arch = "x86_64")]
    if let Some(kernel) = avx512bf16::Avx512Bf16::new() {
        return multiply(kernel, shape, scale, terms, into, old, threads);
    }
    multiply(scalar::Scalar, shape, scale, terms, into, old, threads);
}

fn multiply<K: Kernel>(
    kernel: K,
    [m, n, stride]: [usize; 3],
    scale: f32,
    terms: &[Term],
    into: Into,
    old: Old,
    threads: Threads,
) {
    assert!(terms.iter().all(|t| t.b.shape().1 == n), "a right factor is not {n} columns wide");
    let task = Task { kernel, terms, scale, old };
    let height = match threads {
        Threads::One => m,
        Threads::Pool => m.div_ceil(row_blocks(n.div_ceil(WIDTH), m, rayon::current_num_threads())),
    };
    let height = height.next_multiple_of(HEIGHT).max(HEIGHT);
    into.for_each_block([m, n, stride], height, threads, |block| task.run(block));
}

/// Into how many blocks the rows are divided, so that the threads have equal work; each block packs its panels anew.
fn row_blocks(panels: usize, m: usize, threads: usize) -> usize {
    let enough = panels.is_multiple_of(threads) || panels >= 8 * threads;
    let wanted = if enough { 1 } else { (4 * threads).div_ceil(panels) };
    wanted.min(m.div_ceil(4 * HEIGHT)).max(1)
}

struct Task<'a, K> {
    kernel: K,
    terms: &'a [Term<'a>],
    scale: f32,
    old: Old,
}

impl<K: Kernel> Task<'_, K> {
    /// Computes a block of the result.
    fn run(&self, mut block: Block) {
        let len = self.terms.iter().map(|t| panel_len(t.b.shape().0)).sum();
        scratch::with(len, |packed: &mut [bf16]| {
            let mut rest = &mut *packed;
            for term in self.terms {
                let (panel, later) = rest.split_at_mut(panel_len(term.b.shape().0));
                term.b.pack(self.kernel, block.column(), panel);
                rest = later;
            }
            let mut tile: Tile = [[0.; WIDTH]; HEIGHT];
            let mut left = Vec::with_capacity(self.terms.len());
            for start in block.rows().step_by(HEIGHT) {
                let rows = start..(start + HEIGHT).min(block.rows().end);
                left.clear();
                left.extend(self.terms.iter().map(|t| Rows {
                    data: &t.a[start * t.stride..],
                    stride: t.stride,
                    k: t.b.shape().0,
                }));
                self.kernel.tile(rows.len(), &left, packed, &mut tile);
                block.store(&tile, rows, self.scale, self.old);
            }
        });
    }
}

#[cfg(test)]
mod tests;
