//! Products of matrices with f32 sums, the right factor decoded while it is used.
//!
//! The result is cut into panels of 32 columns. A task packs one panel or some of the right factor once, into the
//! second-level cache: from 4 bits, from bf16 or f32, transposed or not. Then it goes down the rows of the left factor, and
//! for each tile of them across its panels; a tile of the result stays in registers. Several products with one result are
//! one: their terms follow each other in the inner loop, so that a low-rank branch costs what its rank is. With one row or
//! a few (decoding), nothing is packed: each result is a dot product.
//!
//! Every element of the result is one sum in one order, whatever the number of threads.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx512bf16;
mod factor;
mod kernel;
mod lanes;
mod operand;
mod panels;
mod result;
mod scalar;
mod source;

use crate::ops::cpu::dropout::Mask;
use crate::ops::cpu::element::Element;
use crate::ops::cpu::scratch;
use crate::ops::dropout::Dropout;
pub(crate) use factor::{Factor, WithKernel};
pub(crate) use kernel::{Kernel, Out, Rows, WIDTH};
use kernel::{TileRow, panel_len};
pub(crate) use operand::Operand;
pub(crate) use panels::Panels;
use result::{Block, Tile};
pub(crate) use result::{Into, Old, Threads};
pub(crate) use source::{Source, Values};
use std::ops::Range;

/// Products that one result is the sum of, at most.
const MOST_TERMS: usize = 2;
/// Rows of the tallest kernel's tiles.
const MOST_ROWS: usize = 32;
/// Up to this many rows of the left factor, the right one is not packed.
pub(crate) const FEW_ROWS: usize = 4;

/// `a·b`, one part of a product.
#[derive(Clone, Copy)]
pub(crate) struct Term<'a, T> {
    /// The left factor's values; its row `i` starts at `i * stride`.
    pub(crate) a: &'a [T],
    pub(crate) stride: usize,
    pub(crate) b: Right<'a, T>,
}

/// The right factor.
#[derive(Clone, Copy)]
pub(crate) enum Right<'a, T> {
    /// W `[k, n]`
    Plain(Source<'a, T>),
    /// Wᵀ for W `[n, k]`
    Transposed(Source<'a, T>),
}

impl<'a, T: Factor> Term<'a, T> {
    /// The product of the contiguous `a` and `w`.
    pub(crate) fn plain(a: &'a [T], w: Source<'a, T>) -> Self {
        Self { a, stride: w.rows, b: Right::Plain(w) }
    }

    /// The product of the contiguous `a` and the transpose of `w`.
    pub(crate) fn transposed(a: &'a [T], w: Source<'a, T>) -> Self {
        Self { a, stride: w.cols, b: Right::Transposed(w) }
    }

    /// The left factor.
    fn rows(&self) -> Rows<'a, T> {
        Rows { data: self.a, stride: self.stride, k: self.b.shape().0 }
    }
}

impl<T: Element> Right<'_, T> {
    /// k and n.
    pub(crate) fn shape(&self) -> (usize, usize) {
        match self {
            Self::Plain(w) => (w.rows, w.cols),
            Self::Transposed(w) => (w.cols, w.rows),
        }
    }
}

/// How many elements of a row products of this type take at a time: [`Kernel::DEPTH`] of the kernel that is chosen.
pub(crate) fn depth<T: Factor>() -> usize {
    struct Depth;

    impl<T> WithKernel<T> for Depth {
        type Output = usize;

        fn run<K: Kernel>(self, _: K) -> usize
        where
            T: Operand<K::Number>,
        {
            K::DEPTH
        }
    }

    T::with_kernel(Depth)
}

/// `into [m, n] = scale * Σ a·b` over the terms, plus what was there for [`Old::Add`].
///
/// Panics if the factors do not fit together.
pub(crate) fn product<T: Factor>(
    m: usize,
    n: usize,
    scale: f32,
    terms: &[Term<T>],
    into: Into,
    old: Old,
    threads: Threads,
) {
    product_strided([m, n, n], scale, terms, into, old, threads);
}

/// `into [m, n] = a·b + mask ∘ (c·d)` for the terms `[a·b, c·d]`; the mask is that of a contiguous `[m, n]`.
///
/// Panics if the factors do not fit together.
pub(crate) fn product_masked<T: Factor>(m: usize, n: usize, terms: [Term<T>; 2], mask: Dropout, into: Into) {
    let [term, masked] = terms;
    let (scale, old, threads) = (1., Old::Overwrite, Threads::Pool);
    T::with_kernel(Job { shape: [m, n, n], terms: &[term], masked: Some((masked, mask)), scale, into, old, threads });
}

/// [`product`] into a matrix `[m, n]` whose rows start `stride` apart, for `[m, n, stride]`.
pub(crate) fn product_strided<T: Factor>(
    shape: [usize; 3],
    scale: f32,
    terms: &[Term<T>],
    into: Into,
    old: Old,
    threads: Threads,
) {
    T::with_kernel(Job { shape, terms, masked: None, scale, into, old, threads });
}

/// A product to compute.
pub(crate) struct Job<'a, T> {
    /// m, n, and from one row of the result to the next.
    shape: [usize; 3],
    terms: &'a [Term<'a, T>],
    /// One more term, and the mask that its product goes through.
    masked: Option<(Term<'a, T>, Dropout)>,
    scale: f32,
    into: Into<'a>,
    old: Old,
    threads: Threads,
}

impl<T: Factor> Job<'_, T> {
    fn run<K: Kernel>(self, kernel: K)
    where
        T: Operand<K::Number>,
    {
        let Self { shape: [m, n, stride], terms, masked, scale, into, old, threads } = self;
        assert!(terms.len() <= MOST_TERMS, "{} products in one", terms.len());
        let all = || terms.iter().chain(masked.iter().map(|(term, _)| term));
        assert!(all().all(|t| t.b.shape().1 == n), "not {n} columns wide");
        let depth: usize = all().map(|term| panel_len::<K>(term.b.shape().0)).sum();
        let block = match threads {
            Threads::One => block::<K>(m, n, depth, 1),
            Threads::Pool => block::<K>(m, n, depth, rayon::current_num_threads()),
        };
        if m <= FEW_ROWS && masked.is_none() && terms.iter().all(|t| matches!(t.b, Right::Transposed(_))) {
            let few = FewRows { kernel, terms, scale, old };
            return into.for_each_block([m, n, stride], [m.max(1), WIDTH], threads, |block| few.run(block));
        }
        let rows = all().map(Term::rows).collect::<Vec<_>>();
        T::with_rows(&rows, m, K::DEPTH, threads, |rows| {
            let (rows, masked_rows) = rows.split_at(terms.len());
            let mask = masked.map(|(_, dropout)| Mask::of(&dropout));
            let masked_terms = masked.iter().map(|(term, _)| *term).collect::<Vec<_>>();
            let plain = Sum { kernel, terms, rows };
            let masked = Sum { kernel, terms: &masked_terms, rows: masked_rows };
            let task = Task { plain, masked, mask, scale, old };
            into.for_each_block([m, n, stride], block, threads, |block| task.run(block));
        });
    }
}

/// The rows and columns of a task's block of a result `[m, n]`, if a panel has `depth` elements: so that the threads have
/// equal work, a task's panels fit into the cache, and as few panels as possible are packed by more than one task.
fn block<K: Kernel>(m: usize, n: usize, depth: usize, threads: usize) -> [usize; 2] {
    let panels = n.div_ceil(WIDTH).max(1);
    let fitting = (K::PACKED / depth.max(1)).clamp(1, panels);
    if threads == 1 {
        return [m.next_multiple_of(K::HEIGHT).max(K::HEIGHT), fitting * WIDTH];
    }
    let even = panels.is_multiple_of(threads) || panels >= 8 * threads;
    let rounds = panels.div_ceil(threads * fitting);
    let across = if even { panels.div_ceil(threads * rounds) } else { 1 };
    let stacked = if even { 1 } else { (4 * threads).div_ceil(panels).min(m.div_ceil(4 * K::HEIGHT)).max(1) };
    [m.div_ceil(stacked).next_multiple_of(K::HEIGHT).max(K::HEIGHT), across * WIDTH]
}

/// Products that are added up.
struct Sum<'a, T, N, K> {
    kernel: K,
    terms: &'a [Term<'a, T>],
    /// The left factor of each.
    rows: &'a [Rows<'a, N>],
}

impl<T: Operand<K::Number> + Factor, K: Kernel> Sum<'_, T, K::Number, K> {
    /// Elements of the terms' panels of the same columns, which follow each other.
    fn depth(&self) -> usize {
        self.rows.iter().map(|rows| panel_len::<K>(rows.k)).sum()
    }

    /// Calls `body` with the panels of the right factors' `columns`.
    fn pack<R>(&self, columns: Range<usize>, body: impl FnOnce(&[K::Number]) -> R) -> R {
        let len = self.depth() * columns.len().div_ceil(WIDTH);
        scratch::with(len, |packed: &mut [K::Number]| {
            let mut rest = &mut *packed;
            for column in columns.step_by(WIDTH) {
                for term in self.terms {
                    let (panel, later) = rest.split_at_mut(panel_len::<K>(term.b.shape().0));
                    term.b.pack_panel(self.kernel, column, panel);
                    rest = later;
                }
            }
            body(packed)
        })
    }

    /// The sums of a tile whose first row is `start`, with what is there for [`Old::Add`].
    fn tile(&self, size: [usize; 2], start: usize, panels: &[K::Number], tile: &mut [TileRow], old: Old) {
        let mut rows = [Rows { data: &[][..], stride: 0, k: 0 }; MOST_TERMS];
        rows.iter_mut().zip(self.rows).for_each(|(to, rows)| *to = rows.from(start));
        let out = Out { values: tile.as_flattened_mut(), stride: WIDTH };
        self.kernel.tile(size, &rows[..self.rows.len()], panels, out, old);
    }
}

struct Task<'a, T, N, K> {
    plain: Sum<'a, T, N, K>,
    /// What goes through the mask before it is added.
    masked: Sum<'a, T, N, K>,
    mask: Option<Mask>,
    scale: f32,
    old: Old,
}

impl<T: Operand<K::Number> + Factor, K: Kernel> Task<'_, T, K::Number, K> {
    /// Computes a block of the result.
    fn run(&self, mut block: Block) {
        let mut tile = Tile::<MOST_ROWS>::zeros();
        let _ready = self.plain.kernel.hold();
        self.plain.pack(block.columns(), |panels| {
            self.masked.pack(block.columns(), |masked_panels| {
                for start in block.rows().step_by(K::HEIGHT) {
                    let rows = start..(start + K::HEIGHT).min(block.rows().end);
                    for (i, column) in block.columns().step_by(WIDTH).enumerate() {
                        let columns = column..(column + WIDTH).min(block.columns().end);
                        let size = [rows.len(), columns.len()];
                        let mut old = Old::Overwrite;
                        if let Some(mask) = &self.mask {
                            let masked_panels = &masked_panels[i * self.masked.depth()..];
                            self.masked.tile(size, start, masked_panels, &mut tile.sums, old);
                            block.mask(rows.clone(), column, mask, &mut tile.sums);
                            old = Old::Add;
                        }
                        self.plain.tile(size, start, &panels[i * self.plain.depth()..], &mut tile.sums, old);
                        block.store(&mut tile, [rows.clone(), columns], self.scale, self.old);
                    }
                }
            });
        });
    }
}

/// A product with few rows, each element of which is a dot product for each term.
struct FewRows<'a, T, K> {
    kernel: K,
    terms: &'a [Term<'a, T>],
    scale: f32,
    old: Old,
}

impl<T: Operand<K::Number> + Factor, K: Kernel> FewRows<'_, T, K> {
    fn run(&self, mut block: Block) {
        let (rows, columns) = (block.rows(), block.columns());
        let mut tile = Tile::<FEW_ROWS>::zeros();
        for term in self.terms {
            let (Right::Plain(w) | Right::Transposed(w)) = &term.b;
            w.add_dots(self.kernel, &term.rows().from(rows.start), columns.clone(), &mut tile.sums[..rows.len()]);
        }
        block.store(&mut tile, [rows, columns], self.scale, self.old);
    }
}

#[cfg(test)]
mod tests;
