//! `ops::qlora_linear` on the CPU, here in f32, in `bf16` for that type; the mathematics stand there.
//!
//! Large inputs: W is decoded by panels of rows into scratch memory, and everything accumulates into `y` and `dx` inside
//! the products. Few rows (decoding): each row of W is decoded once, into the first-level cache, and multiplied
//! with all rows of x, since a product of that shape would only wait for the decoded matrix.

mod bf16;

use crate::error::Result;
use crate::ops::cpu::decode::{Blocks, Lent};
use crate::ops::cpu::element::Element;
use crate::ops::cpu::gemm::{Mat, MatMut, Old, Threads, gemm};
use crate::ops::cpu::scratch;
use crate::ops::cpu::simd::arch;
use crate::ops::cpu::slice::{self, Slice};
use crate::ops::dropout::Dropout;
use crate::ops::qlora_linear::{Grads, LoraBranch, Needs};
use crate::ops::weight::Weight;
use candle_core::{DType, Device, Tensor};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;
use std::ops::Range;

/// Up to this many rows of x, W is used row by row.
const FEW_ROWS: usize = 6;
/// Decoded elements of W at a time, 4 MB.
const PANEL: usize = 1 << 20;
/// Rows of x that are masked at a time, so that the copy stays in the second-level cache.
const MASKED_ROWS: usize = 64;

/// `y` and `h`, or `None` where this form does not apply.
pub(crate) fn forward(
    x: &Tensor,
    w: &Weight,
    bias: Option<&Tensor>,
    lora: Option<&LoraBranch>,
) -> Result<Option<(Tensor, Option<Tensor>)>> {
    let (t, input, out) = (x.dims()[0], w.in_features(), w.out_features());
    if t * input * out == 0 {
        return Ok(None);
    }
    if x.dtype() == DType::BF16 && bias.is_none() {
        return bf16::forward(x, w, lora);
    }
    let (Some(x), Some(lent)) = (slice::of::<f32>(x), LentWeight::of(w)) else { return Ok(None) };
    let bias = match bias.map(slice::of::<f32>) {
        None => None,
        Some(Some(bias)) => Some(bias),
        Some(None) => return Ok(None),
    };
    let Some(branch) = Branch::of_any(lora) else { return Ok(None) };
    let w = lent.borrow();
    let h = branch.as_ref().map(|branch| branch.down(&x, t, input));
    let low_rank = branch.as_ref().zip(h.as_deref());
    let mut y = vec![0f32; t * out];
    if t <= FEW_ROWS {
        w.few_rows(&x, t, input, &mut y);
        if let Some(bias) = &bias {
            y.chunks_exact_mut(out).flat_map(|y| y.iter_mut().zip(&**bias)).for_each(|(y, b)| *y += b);
        }
        if let Some((branch, h)) = low_rank {
            branch.up(h, t, &mut y, Old::Add);
        }
    } else {
        let mut old = Old::Overwrite;
        if let Some(bias) = &bias {
            y.par_chunks_exact_mut(out).for_each(|y| y.copy_from_slice(bias));
            old = Old::Add;
        }
        if let Some((branch, h)) = low_rank {
            branch.up(h, t, &mut y, old);
            old = Old::Add;
        }
        w.panels(out, input, |rows, panel| {
            let y = MatMut::columns(&mut y[rows.start..], t, rows.len(), out);
            gemm(1., Mat::new(&x, t, input), panel.t(), y, old, Threads::Pool);
        });
    }
    let h = match (branch, h) {
        (Some(branch), Some(h)) => Some(tensor(h, t, branch.rank)?),
        _ => None,
    };
    Ok(Some((tensor(y, t, out)?, h)))
}

/// The gradients, or `None` where this form does not apply.
pub(crate) fn backward(
    x: &Tensor,
    w: &Weight,
    lora: Option<&LoraBranch>,
    h: Option<&Tensor>,
    dy: &Tensor,
    needs: Needs,
) -> Result<Option<Grads>> {
    let (t, input, out) = (x.dims()[0], w.in_features(), w.out_features());
    if t * input * out == 0 {
        return Ok(None);
    }
    if x.dtype() == DType::BF16 {
        return bf16::backward(x, w, lora, h, dy, needs);
    }
    let (Some(x), Some(dy), Some(lent)) = (slice::of::<f32>(x), slice::of::<f32>(dy), LentWeight::of(w)) else {
        return Ok(None);
    };
    let Some(low_rank) = Branch::with_h(lora, h) else { return Ok(None) };
    let mut grads = Grads::default();
    let mut dx = if needs.dx { Some(vec![0f32; t * input]) } else { None };
    let mut old = Old::Overwrite;
    let dy_mat = Mat::new(&dy, t, out);
    if let Some((branch, h)) = &low_rank {
        let rank = branch.rank;
        let mut db = vec![0f32; out * rank];
        let into = MatMut::new(&mut db, out, rank);
        gemm(branch.scale, dy_mat.t(), Mat::new(h, t, rank), into, Old::Overwrite, Threads::Pool);
        grads.db = Some(tensor(db, out, rank)?);

        let mut g = vec![0f32; t * rank];
        let into = MatMut::new(&mut g, t, rank);
        let scale = branch.scale * branch.keep_scale();
        gemm(scale, dy_mat, Mat::new(&branch.b, out, rank), into, Old::Overwrite, Threads::Pool);
        grads.da = Some(tensor(branch.down_backward(&x, &g, t, input, dx.as_deref_mut()), rank, input)?);
        old = Old::Add;
    }
    if let Some(mut dx) = dx {
        lent.borrow().panels(out, input, |rows, panel| {
            let dy = dy_mat.columns(rows);
            gemm(1., dy, panel, MatMut::new(&mut dx, t, input), old, Threads::Pool);
            old = Old::Add;
        });
        grads.dx = Some(tensor(dx, t, input)?);
    }
    if needs.dw {
        let mut dw = vec![0f32; out * input];
        let into = MatMut::new(&mut dw, out, input);
        gemm(1., dy_mat.t(), Mat::new(&x, t, input), into, Old::Overwrite, Threads::Pool);
        grads.dw = Some(tensor(dw, out, input)?);
    }
    Ok(Some(grads))
}

fn tensor(values: Vec<f32>, rows: usize, cols: usize) -> Result<Tensor> {
    Ok(Tensor::from_vec(values, (rows, cols), &Device::Cpu)?)
}

/// The low-rank branch's memory.
struct Branch<'a> {
    a: Slice<'a, f32>,
    b: Slice<'a, f32>,
    rank: usize,
    scale: f32,
    dropout: Option<Dropout>,
}

impl<'a> Branch<'a> {
    fn of(lora: &LoraBranch<'a>) -> Option<Self> {
        Some(Self {
            a: slice::of(lora.a)?,
            b: slice::of(lora.b)?,
            rank: lora.a.dims()[0],
            scale: lora.scale as f32,
            dropout: lora.active_dropout(),
        })
    }

    /// The branch, if there is one; `None` where its memory cannot be lent.
    fn of_any(lora: Option<&LoraBranch<'a>>) -> Option<Option<Self>> {
        lora.map_or(Some(None), |lora| Self::of(lora).map(Some))
    }

    /// The same with the forward's h; `None` also where one of the two is missing.
    fn with_h<'h>(lora: Option<&LoraBranch<'a>>, h: Option<&'h Tensor>) -> Option<Option<(Self, Slice<'h, f32>)>> {
        match (lora, h) {
            (None, None) => Some(None),
            (Some(lora), Some(h)) => Some(Some((Self::of(lora)?, slice::of(h)?))),
            _ => None,
        }
    }

    fn keep_scale(&self) -> f32 {
        self.dropout.map_or(1., |d| d.scale() as f32)
    }

    /// `h = (m ∘ x)·Aᵀ / (1 - p)`, [t, rank].
    fn down(&self, x: &[f32], t: usize, input: usize) -> Vec<f32> {
        let mut h = vec![0f32; t * self.rank];
        let a = Mat::new(&self.a, self.rank, input).t();
        let Some(dropout) = self.dropout else {
            gemm(1., Mat::new(x, t, input), a, MatMut::new(&mut h, t, self.rank), Old::Overwrite, Threads::Pool);
            return h;
        };
        let chunks = h.par_chunks_mut(MASKED_ROWS * self.rank).zip(x.par_chunks(MASKED_ROWS * input)).enumerate();
        chunks.for_each(|(i, (h, x))| {
            scratch::with(x.len(), |masked| {
                dropout.zero((i * MASKED_ROWS * input) as u64, x, masked);
                let t = x.len() / input;
                let h = MatMut::new(h, t, self.rank);
                gemm(self.keep_scale(), Mat::new(masked, t, input), a, h, Old::Overwrite, Threads::One);
            })
        });
        h
    }

    /// `y = s·h·Bᵀ`, or `y += …`.
    fn up(&self, h: &[f32], t: usize, y: &mut [f32], old: Old) {
        let out = y.len() / t;
        let b = Mat::new(&self.b, out, self.rank).t();
        gemm(self.scale, Mat::new(h, t, self.rank), b, MatMut::new(y, t, out), old, Threads::Pool);
    }

    /// `dA = gᵀ·(m ∘ x)`, and `dx = m ∘ (g·A)` where wanted; `g` carries the factor 1 / (1 - p).
    fn down_backward(&self, x: &[f32], g: &[f32], t: usize, input: usize, dx: Option<&mut [f32]>) -> Vec<f32> {
        let rank = self.rank;
        let mut da = vec![0f32; rank * input];
        let a = Mat::new(&self.a, rank, input);
        let Some(dropout) = self.dropout else {
            let g = Mat::new(g, t, rank);
            if let Some(dx) = dx {
                gemm(1., g, a, MatMut::new(dx, t, input), Old::Overwrite, Threads::Pool);
            }
            gemm(1., g.t(), Mat::new(x, t, input), MatMut::new(&mut da, rank, input), Old::Overwrite, Threads::Pool);
            return da;
        };
        // Each range of rows adds up its own dA; the sums are then added in order, so the result never varies.
        let per_range = t.div_ceil(rayon::current_num_threads()).next_multiple_of(MASKED_ROWS);
        let ranges = t.div_ceil(per_range);
        let mut partial = vec![0f32; ranges * da.len()];
        let mut no_dx = Vec::new();
        let want_dx = dx.is_some();
        let dx_ranges = dx.unwrap_or(&mut no_dx);
        let mut dx_ranges = dx_ranges.chunks_mut(per_range * input).map(Some).collect::<Vec<_>>();
        dx_ranges.resize_with(ranges, || None);
        let work = partial.par_chunks_mut(da.len()).zip(dx_ranges).enumerate();
        work.for_each(|(i, (da, mut dx))| {
            let rows = i * per_range..((i + 1) * per_range).min(t);
            for start in rows.clone().step_by(MASKED_ROWS) {
                let n = MASKED_ROWS.min(rows.end - start);
                let first = (start * input) as u64;
                scratch::with(n * input, |masked| {
                    let g = Mat::new(&g[start * rank..][..n * rank], n, rank);
                    dropout.zero(first, &x[start * input..][..n * input], masked);
                    gemm(1., g.t(), Mat::new(masked, n, input), MatMut::new(da, rank, input), Old::Add, Threads::One);
                    if let (Some(dx), true) = (&mut dx, want_dx) {
                        gemm(1., g, a, MatMut::new(masked, n, input), Old::Overwrite, Threads::One);
                        dropout.zero(first, masked, &mut dx[(start - rows.start) * input..][..n * input]);
                    }
                });
            }
        });
        for partial in partial.chunks_exact(da.len()) {
            da.iter_mut().zip(partial).for_each(|(sum, p)| *sum += p);
        }
        da
    }
}

/// The weight's memory, locked for reading; T is the type of a dense one.
enum LentWeight<'a, T> {
    Dense(Slice<'a, T>),
    Quantized(Lent<'a>),
}

impl<'a, T: Element> LentWeight<'a, T> {
    fn of(w: &'a Weight) -> Option<Self> {
        match w {
            Weight::Dense(w) => Some(Self::Dense(slice::of(w)?)),
            Weight::Quantized(w) => Some(Self::Quantized(w.lend()?)),
        }
    }
}

impl LentWeight<'_, f32> {
    fn borrow(&self) -> Matrix<'_> {
        match self {
            Self::Dense(w) => Matrix::Dense(w),
            Self::Quantized(w) => Matrix::Quantized(w.blocks()),
        }
    }
}

/// The weight as plain slices.
enum Matrix<'a> {
    Dense(&'a [f32]),
    Quantized(Blocks<'a>),
}

impl Matrix<'_> {
    /// Calls `body` with consecutive ranges of W's rows and their elements.
    fn panels(&self, out: usize, input: usize, mut body: impl FnMut(Range<usize>, Mat)) {
        let blocks = match self {
            Self::Dense(w) => return body(0..out, Mat::new(w, out, input)),
            Self::Quantized(blocks) => blocks,
        };
        let rows = (PANEL / input).clamp(1, out);
        for start in (0..out).step_by(rows) {
            let rows = start..(start + rows).min(out);
            scratch::with(rows.len() * input, |panel| {
                blocks.decode(start * input, panel);
                let panel = Mat::new(panel, rows.len(), input);
                body(rows, panel);
            });
        }
    }

    /// `y = x·Wᵀ` for few rows `t` of x.
    fn few_rows(&self, x: &[f32], t: usize, input: usize, y: &mut [f32]) {
        /// Rows of W that a task takes.
        const ROWS: usize = 32;
        let out = y.len() / t;
        scratch::with(t * out, |by_output| {
            by_output.par_chunks_mut(ROWS * t).enumerate().for_each(|(i, y)| {
                scratch::with(input, |row| {
                    arch().dispatch(DotRows { w: self, first: i * ROWS, x, t, input, row, y });
                })
            });
            for (t, y) in y.chunks_exact_mut(out).enumerate() {
                y.iter_mut().zip(by_output[t..].iter().step_by(by_output.len() / out)).for_each(|(y, v)| *y = *v);
            }
        });
    }
}

/// Rows `first`, `first + 1`, … of W times each row of x [t, input], into `y` [rows, t].
struct DotRows<'a> {
    w: &'a Matrix<'a>,
    first: usize,
    x: &'a [f32],
    t: usize,
    input: usize,
    /// Room for a decoded row.
    row: &'a mut [f32],
    y: &'a mut [f32],
}

impl WithSimd for DotRows<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { w, first, x, t, input, row, y } = self;
        for (i, y) in y.chunks_exact_mut(t).enumerate() {
            let start = (first + i) * input;
            let row = match w {
                Matrix::Dense(w) => &w[start..][..input],
                Matrix::Quantized(blocks) => {
                    blocks.decode_here(start, row);
                    &*row
                }
            };
            let mut fours = y.chunks_exact_mut(4).zip(x.chunks_exact(4 * input));
            for (y, x) in fours.by_ref() {
                y.copy_from_slice(&dots::<S, 4, 2>(simd, row, std::array::from_fn(|t| &x[t * input..][..input])));
            }
            let rest = t / 4 * 4;
            for (y, x) in y[rest..].iter_mut().zip(x[rest * input..].chunks_exact(input)) {
                [*y] = dots::<S, 1, 4>(simd, row, [x]);
            }
        }
    }
}

/// The dot products of `w` with T vectors as long as it, each in N vectors of partial sums.
#[inline(always)]
fn dots<S: Simd, const T: usize, const N: usize>(simd: S, w: &[f32], x: [&[f32]; T]) -> [f32; T] {
    let (w_vectors, w_rest) = S::as_simd_f32s(w);
    let x = x.map(|x| S::as_simd_f32s(x));
    let (blocks, vectors_rest) = w_vectors.as_chunks::<N>();
    let x_blocks = x.map(|(x, _)| &x.as_chunks::<N>().0[..blocks.len()]);
    let mut sums = [[simd.splat_f32s(0.); N]; T];
    for (i, w) in blocks.iter().enumerate() {
        for t in 0..T {
            for n in 0..N {
                sums[t][n] = simd.mul_add_e_f32s(w[n], x_blocks[t][i][n], sums[t][n]);
            }
        }
    }
    std::array::from_fn(|t| {
        let (x_vectors, x_rest) = x[t];
        let mut sum = sums[t].into_iter().reduce(|a, b| simd.add_f32s(a, b)).unwrap_or(simd.splat_f32s(0.));
        for (&w, &x) in vectors_rest.iter().zip(&x_vectors[N * blocks.len()..]) {
            sum = simd.mul_add_e_f32s(w, x, sum);
        }
        let rest = w_rest.iter().zip(x_rest).map(|(w, x)| w * x).sum::<f32>();
        simd.reduce_sum_f32s(sum) + rest
    })
}
