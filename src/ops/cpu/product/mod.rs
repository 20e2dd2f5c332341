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

use crate::device::Isa;
use crate::ops::cpu::gemm::{Old, Threads};
use crate::ops::cpu::scratch;
use crate::ops::dropout::Dropout;
use half::bf16;
use kernel::{HEIGHT, Kernel, Rows, Tile, WIDTH, panel_len};
use result::Block;
pub(crate) use result::Into;
pub(crate) use source::{Source, Values};

/// Whether this processor multiplies bf16 faster than f32, with what it may use.
pub(crate) fn is_fast() -> bool {
    cfg!(target_arch = "x86_64") && Isa::in_use() >= Isa::Avx512Bf16
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

/// `into [m, n] = a·b + mask ∘ (c·d)` for the terms `[a·b, c·d]`; the mask is that of a contiguous `[m, n]`.
///
/// Panics if the factors do not fit together.
pub(crate) fn product_masked(m: usize, n: usize, [term, masked]: [Term; 2], mask: Dropout, into: Into) {
    run([m, n, n], 1., &[term], Some((masked, mask)), into, Old::Overwrite, Threads::Pool);
}

/// [`product`] into a matrix `[m, n]` whose rows start `stride` apart, for `[m, n, stride]`.
pub(crate) fn product_strided(shape: [usize; 3], scale: f32, terms: &[Term], into: Into, old: Old, threads: Threads) {
    run(shape, scale, terms, None, into, old, threads);
}

fn run(
    shape: [usize; 3],
    scale: f32,
    terms: &[Term],
    masked: Option<(Term, Dropout)>,
    into: Into,
    old: Old,
    threads: Threads,
) {
    #[cfg(target_arch = "x86_64")]
    if let Some(kernel) = avx512bf16::Avx512Bf16::new().filter(|_| is_fast()) {
        return multiply(Task { kernel, terms, masked, scale, old }, shape, into, threads);
    }
    multiply(Task { kernel: scalar::Scalar, terms, masked, scale, old }, shape, into, threads);
}

fn multiply<K: Kernel>(task: Task<K>, [m, n, stride]: [usize; 3], into: Into, threads: Threads) {
    let fits = |t: &Term| t.b.shape().1 == n;
    assert!(task.terms.iter().all(fits) && task.masked.iter().all(|(t, _)| fits(t)), "not {n} columns wide");
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
    /// One more term, and the mask that its product goes through.
    masked: Option<(Term<'a>, Dropout)>,
    scale: f32,
    old: Old,
}

impl<K: Kernel> Task<'_, K> {
    /// Computes a block of the result.
    fn run(&self, mut block: Block) {
        let masked: Vec<Term> = self.masked.iter().map(|(term, _)| *term).collect();
        self.pack(self.terms, block.column(), |panels| {
            self.pack(&masked, block.column(), |masked_panels| {
                let mut tile: Tile = [[0.; WIDTH]; HEIGHT];
                let mut masked_tile = tile;
                let mut left = Vec::with_capacity(self.terms.len());
                for start in block.rows().step_by(HEIGHT) {
                    let rows = start..(start + HEIGHT).min(block.rows().end);
                    let size = [rows.len(), block.width()];
                    self.kernel.tile(size, below(self.terms, start, &mut left), panels, &mut tile);
                    if let Some((_, mask)) = &self.masked {
                        self.kernel.tile(size, below(&masked, start, &mut left), masked_panels, &mut masked_tile);
                        block.add_masked(&masked_tile, rows.clone(), mask, &mut tile);
                    }
                    block.store(&tile, rows, self.scale, self.old);
                }
            });
        });
    }

    /// Calls `body` with the panels of the right factors from `column` on.
    fn pack<R>(&self, terms: &[Term], column: usize, body: impl FnOnce(&[bf16]) -> R) -> R {
        let len = terms.iter().map(|t| panel_len(t.b.shape().0)).sum();
        scratch::with(len, |packed: &mut [bf16]| {
            let mut rest = &mut *packed;
            for term in terms {
                let (panel, later) = rest.split_at_mut(panel_len(term.b.shape().0));
                term.b.pack(self.kernel, column, panel);
                rest = later;
            }
            body(packed)
        })
    }
}

/// The left factors' rows from `start` on, in `room`.
fn below<'a, 'r>(terms: &[Term<'a>], start: usize, room: &'r mut Vec<Rows<'a>>) -> &'r [Rows<'a>] {
    room.clear();
    room.extend(terms.iter().map(|t| Rows { data: &t.a[start * t.stride..], stride: t.stride, k: t.b.shape().0 }));
    room
}

#[cfg(test)]
mod tests;
