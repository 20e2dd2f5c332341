//! The kernel in f32 for vector registers of any width: AVX-512, AVX2 with FMA, NEON. `pulp` compiles it for each.
//!
//! A step of the inner loop takes one row of the panel, N registers of it, and for each of R rows of the left factor one
//! element, broadcast: R·N multiply-adds for R + N loads. R·N sums and what they need fill the registers there are.

use super::kernel::{Kernel, Out, Rows, TileRow, WIDTH};
use super::result::Old;
use pulp::{Arch, Simd, WithSimd};

/// The registers of one instruction set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lanes(Arch);

impl Lanes {
    /// `None` for an `arch` without vector registers.
    pub(crate) fn new(arch: Arch) -> Option<Self> {
        (!matches!(arch, Arch::Scalar)).then_some(Self(arch))
    }
}

impl Kernel for Lanes {
    type Number = f32;

    const HEIGHT: usize = 12;
    const GROUP: usize = 1;
    const DEPTH: usize = 1;

    type Hold = ();

    fn hold(self) {}

    fn tile(self, size: [usize; 2], terms: &[Rows<f32>], panels: &[f32], out: Out, old: Old) {
        assert!(out.hold(size[0]), "rows outside the result");
        let (panels, _) = panels.as_chunks::<WIDTH>();
        self.0.dispatch(Tile { size, terms, panels, out, old });
    }
}

struct Tile<'a> {
    size: [usize; 2],
    terms: &'a [Rows<'a, f32>],
    panels: &'a [TileRow],
    out: Out<'a>,
    old: Old,
}

impl WithSimd for Tile<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // 32 registers, but 16 where they hold 8 numbers (AVX2).
        let most = if S::F32_LANES == 8 { 6 } else { Lanes::HEIGHT };
        let Self { size: [rows, columns], terms, panels, out, old } = self;
        for row in (0..rows).step_by(most) {
            let out = Out { values: &mut out.values[row * out.stride..], stride: out.stride };
            let part = Part { terms, panels, row, out, old };
            match most.min(rows - row) {
                1 => part.multiply::<S, 1>(simd, columns),
                2 => part.multiply::<S, 2>(simd, columns),
                3 => part.multiply::<S, 3>(simd, columns),
                4 => part.multiply::<S, 4>(simd, columns),
                5 => part.multiply::<S, 5>(simd, columns),
                6 => part.multiply::<S, 6>(simd, columns),
                7 => part.multiply::<S, 7>(simd, columns),
                8 => part.multiply::<S, 8>(simd, columns),
                9 => part.multiply::<S, 9>(simd, columns),
                10 => part.multiply::<S, 10>(simd, columns),
                11 => part.multiply::<S, 11>(simd, columns),
                _ => part.multiply::<S, 12>(simd, columns),
            }
        }
    }
}

/// Rows of a tile from `row` on.
struct Part<'a> {
    terms: &'a [Rows<'a, f32>],
    panels: &'a [TileRow],
    row: usize,
    out: Out<'a>,
    old: Old,
}

impl Part<'_> {
    /// The sums of R rows, at least `columns` of them.
    #[inline(always)]
    fn multiply<S: Simd, const R: usize>(mut self, simd: S, columns: usize) {
        /// Registers in a row of sums.
        const N: usize = 2;
        for first in (0..WIDTH / S::F32_LANES).step_by(N).take_while(|first| first * S::F32_LANES < columns) {
            self.multiply_columns::<S, R, N>(simd, first);
        }
    }

    /// The sums of R rows in N registers from register `first` on.
    #[inline(always)]
    fn multiply_columns<S: Simd, const R: usize, const N: usize>(&mut self, simd: S, first: usize) {
        let mut sums = [[simd.splat_f32s(0.); N]; R];
        let mut panels = self.panels;
        for term in self.terms {
            let (panel, later) = panels.split_at(term.k);
            panels = later;
            let rows: [&[f32]; R] = std::array::from_fn(|i| &term.row(self.row + i)[..panel.len()]);
            for (l, panel) in panel.iter().enumerate() {
                let registers = &S::as_simd_f32s(panel).0[first..first + N];
                for (sums, row) in sums.iter_mut().zip(rows) {
                    let left = simd.splat_f32s(row[l]);
                    for (sum, right) in sums.iter_mut().zip(registers) {
                        *sum = simd.mul_add_e_f32s(left, *right, *sum);
                    }
                }
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            let out = &mut self.out.values[i * self.out.stride..][..WIDTH];
            for (out, sum) in S::as_mut_simd_f32s(out).0[first..first + N].iter_mut().zip(sums) {
                // Added at the end: a sum of sums is more exact than a longer sum.
                *out = if self.old == Old::Add { simd.add_f32s(*out, *sum) } else { *sum };
            }
        }
    }
}
