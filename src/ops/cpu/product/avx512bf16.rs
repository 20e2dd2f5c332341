//! The kernel for AVX512-BF16: 12 x 32 sums in 24 registers, two columns of products in one instruction.
//!
//! A step of the inner loop takes one pair of rows of the panel (two registers) and, for each row of the left factor, the
//! pair of elements that belongs to it, broadcast: 24 `vdpbf16ps` for 14 loads. 4-bit weights are decoded 32 at a time: the
//! block's 16 values, scaled and rounded, are the table of one `vpermw` (`pack`).

mod pack;

use super::kernel::{Kernel, Out, Rows, TileRow, WIDTH, panel_len};
use super::result::Old;
use super::source::{Source, Values};
use crate::device::Isa;
use half::bf16;
use std::arch::x86_64::*;
use std::ops::Range;

/// Rows of a tile.
const HEIGHT: usize = 12;
/// Bytes of W that [`dots`] fetches ahead.
const AHEAD: usize = 2048;
/// Elements of two rows of a panel, which lie together.
const PAIR: usize = 2 * WIDTH;

/// Proof that the processor has the instructions of this file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512Bf16(());

impl Avx512Bf16 {
    /// `None` on a processor without them.
    pub(crate) fn new() -> Option<Self> {
        Isa::Avx512Bf16.is_present().then_some(Self(()))
    }
}

impl Kernel for Avx512Bf16 {
    type Number = bf16;

    const HEIGHT: usize = HEIGHT;
    const GROUP: usize = 2;
    const DEPTH: usize = 2;

    type Hold = ();

    fn hold(self) {}

    fn tile(self, [rows, columns]: [usize; 2], terms: &[Rows<bf16>], panels: &[bf16], out: Out, old: Old) {
        assert!((1..=HEIGHT).contains(&rows) && terms.iter().all(|t| t.hold(rows)), "rows outside their matrix");
        assert!(terms.iter().all(|t| t.k.is_multiple_of(2)), "half a pair");
        assert!(terms.iter().map(|t| panel_len::<Self>(t.k)).sum::<usize>() <= panels.len(), "a panel is too short");
        assert!(out.hold(rows), "rows outside the result");
        // SAFETY: `self` proves that the processor has the instructions. The assertions are what `tiles` asks for.
        unsafe {
            match columns {
                0..=16 => tiles::<1>(rows, terms, panels, out, old),
                _ => tiles::<2>(rows, terms, panels, out, old),
            }
        }
    }

    fn pack_rows(self, w: &Source<bf16>, row: usize, panel: &mut [bf16]) -> bool {
        assert!(row + WIDTH <= w.rows && panel.len() >= panel_len::<Self>(w.cols), "a panel outside its matrix");
        if !(is_dense(w) || w.cols.is_multiple_of(32) && in_groups(w)) {
            return false;
        }
        // SAFETY: `self` proves that the processor has the instructions. The rows lie inside W, whose constructor has
        // checked its length, and the panel is long enough, by the assertion; rows in 4 bits are whole groups of 32.
        unsafe { pack::rows(w, row, panel) };
        true
    }

    fn pack_columns(self, w: &Source<bf16>, column: usize, panel: &mut [bf16]) -> bool {
        assert!(column < w.cols && panel.len() >= panel_len::<Self>(w.rows), "a panel outside its matrix");
        let whole = column.is_multiple_of(32) && column + WIDTH <= w.cols;
        if !(is_dense(w) || whole && in_groups(w)) {
            return false;
        }
        // SAFETY: as for `pack_rows`; 4-bit columns start at a group of 32.
        unsafe { pack::columns(w, column, panel) };
        true
    }

    fn add_dots(self, a: &Rows<bf16>, w: &Source<bf16>, rows: Range<usize>, sums: &mut [TileRow]) -> bool {
        assert!(rows.end <= w.rows && rows.len() <= WIDTH, "rows outside their matrix");
        assert!(a.k == w.cols && a.hold(sums.len()), "rows outside their matrix");
        if !w.cols.is_multiple_of(32) || !in_groups(w) {
            return false;
        }
        let (fours, rest) = sums.as_chunks_mut::<4>();
        let done = 4 * fours.len();
        // SAFETY: `self` proves that the processor has the instructions. The assertions and the condition are what `add_dots`
        // asks for; `in_groups` is what it asks of a W in 4 bits.
        unsafe {
            for (i, sums) in fours.iter_mut().enumerate() {
                add_dots(&a.from(4 * i), w, rows.clone(), sums);
            }
            for (i, sums) in rest.iter_mut().enumerate() {
                add_dots(&a.from(done + i), w, rows.clone(), std::array::from_mut(sums));
            }
        }
        true
    }
}

fn is_dense(w: &Source<bf16>) -> bool {
    matches!(w.values, Values::Dense(_))
}

/// Whether 32 weights from a multiple of 32 on always have one scale.
fn in_groups(w: &Source<bf16>) -> bool {
    match w.values {
        Values::Dense(_) => true,
        Values::Blocks(blocks) => w.stride.is_multiple_of(32) && blocks.blocksize().is_multiple_of(32),
    }
}

/// [`tile`] with a number of rows that is known when it runs.
///
/// # Safety
/// As for [`tile`], and `rows` is from 1 to [`HEIGHT`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn tiles<const N: usize>(rows: usize, terms: &[Rows<bf16>], panels: &[bf16], out: Out, old: Old) {
    // SAFETY: promised by the caller.
    unsafe {
        match rows {
            1 => tile::<1, N>(terms, panels, out, old),
            2 => tile::<2, N>(terms, panels, out, old),
            3 => tile::<3, N>(terms, panels, out, old),
            4 => tile::<4, N>(terms, panels, out, old),
            5 => tile::<5, N>(terms, panels, out, old),
            6 => tile::<6, N>(terms, panels, out, old),
            7 => tile::<7, N>(terms, panels, out, old),
            8 => tile::<8, N>(terms, panels, out, old),
            9 => tile::<9, N>(terms, panels, out, old),
            10 => tile::<10, N>(terms, panels, out, old),
            11 => tile::<11, N>(terms, panels, out, old),
            _ => tile::<12, N>(terms, panels, out, old),
        }
    }
}

/// `out[i] = Σ a[i]·panel`, or `+=`, for R rows and the first 16·N columns.
///
/// # Safety
/// The processor has the instructions; every term has R rows of `k` elements, which are pairs, and `panels` has
/// `panel_len(k)` for each; `out` has R rows.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn tile<const R: usize, const N: usize>(terms: &[Rows<bf16>], panels: &[bf16], out: Out, old: Old) {
    let to = out.values.as_mut_ptr();
    let mut sums = [[_mm512_setzero_ps(); N]; R];
    let mut b = panels.as_ptr();
    for term in terms {
        let (a, stride) = (term.data.as_ptr(), term.stride);
        for p in 0..term.k / 2 {
            // SAFETY: a panel has PAIR elements for each pair of rows.
            let right: [__m512i; N] = std::array::from_fn(|j| unsafe { load(b.add(32 * j)) });
            for (i, sums) in sums.iter_mut().enumerate() {
                // SAFETY: row i has elements 2p and 2p + 1, since p < k / 2.
                let pair = unsafe { a.add(i * stride + 2 * p).cast::<i32>().read_unaligned() };
                let left = as_bf16(_mm512_set1_epi32(pair));
                for (sum, right) in sums.iter_mut().zip(right) {
                    *sum = _mm512_dpbf16_ps(*sum, left, as_bf16(right));
                }
            }
            // SAFETY: at most the panel's end.
            b = unsafe { b.add(PAIR) };
        }
    }
    for (i, sums) in sums.into_iter().enumerate() {
        for (j, sum) in sums.into_iter().enumerate() {
            // SAFETY: row i has 32 floats.
            unsafe {
                let to = to.add(i * out.stride + 16 * j);
                // Added at the end: a sum of sums is more exact than a longer sum.
                let sum = if old == Old::Add { _mm512_add_ps(_mm512_loadu_ps(to), sum) } else { sum };
                _mm512_storeu_ps(to, sum);
            }
        }
    }
}

/// Adds to `sums[i][j]` the product of row i of `a` and row `rows.start + j` of W.
///
/// # Safety
/// The processor has the instructions; `a` has R rows, as long as W's, which have whole groups of 32 columns, and W has the
/// at most 32 rows; in 4 bits, rows and blocks are whole groups, too.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn add_dots<const R: usize>(a: &Rows<bf16>, w: &Source<bf16>, rows: Range<usize>, sums: &mut [TileRow; R]) {
    for (j, row) in rows.enumerate() {
        // SAFETY: promised by the caller.
        let dots = unsafe { dots::<R>(a, w, row) };
        sums.iter_mut().zip(dots).for_each(|(sums, dot)| sums[j] += dot);
    }
}

/// The products of R rows of `a` and row `row` of W.
///
/// # Safety
/// As for [`add_dots`], whose rows this is one of.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn dots<const R: usize>(a: &Rows<bf16>, w: &Source<bf16>, row: usize) -> [f32; R] {
    // Two sums in turn, so that one need not wait for the last.
    let (mut even, mut odd) = ([_mm512_setzero_ps(); R], [_mm512_setzero_ps(); R]);
    let add = |sums: &mut [__m512; R], column: usize, right: __m512i| {
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: the 32 elements lie in row i of `a`.
            let left = unsafe { load(a.data.as_ptr().add(i * a.stride + column)) };
            *sum = _mm512_dpbf16_ps(*sum, as_bf16(left), as_bf16(right));
        }
    };
    let start = row * w.stride;
    let mut column = 0;
    while column < w.cols {
        let (end, table) = match w.values {
            Values::Dense(_) => (w.cols, _mm512_setzero_si512()),
            Values::Blocks(blocks) => {
                let block = blocks.block_of(start + column);
                (((block + 1) * blocks.blocksize() - start).min(w.cols), pack::table(blocks, block))
            }
        };
        let right = |column: usize| match w.values {
            // SAFETY: the 32 elements lie in row `row` of W.
            Values::Dense(values) => unsafe { load(values.as_ptr().add(start + column)) },
            // SAFETY: the same; a row starts at a multiple of 32.
            Values::Blocks(blocks) => unsafe { pack::look_up(blocks, table, start + column) },
        };
        while column + 64 <= end {
            // Rows follow each other in memory, each read once: the next are fetched while this one is multiplied. A prefetch
            // may point anywhere.
            let ahead = match w.values {
                Values::Dense(values) => values.as_ptr().wrapping_add(start + column).cast::<i8>().wrapping_add(AHEAD),
                Values::Blocks(blocks) => blocks.packed().as_ptr().wrapping_add((start + column) / 2 + AHEAD).cast(),
            };
            _mm_prefetch::<_MM_HINT_T0>(ahead);
            if matches!(w.values, Values::Dense(_)) {
                _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(64));
            }
            add(&mut even, column, right(column));
            add(&mut odd, column + 32, right(column + 32));
            column += 64;
        }
        if column < end {
            add(&mut even, column, right(column));
            column += 32;
        }
    }
    std::array::from_fn(|i| _mm512_reduce_add_ps(_mm512_add_ps(even[i], odd[i])))
}

/// 32 numbers.
///
/// # Safety
/// The processor has the instructions; the numbers exist from `at` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn load(at: *const bf16) -> __m512i {
    // SAFETY: promised by the caller.
    unsafe { _mm512_loadu_si512(at.cast()) }
}

/// The same bits under the type that the product wants.
#[inline(always)]
fn as_bf16(words: __m512i) -> __m512bh {
    // SAFETY: both are 512 bits, any of which are valid.
    unsafe { std::mem::transmute(words) }
}
