//! Root mean square normalisation, one pass over each row; see `ops::rms_norm` for the mathematics.

use crate::error::Result;
use crate::ops::cpu::element::{self, Element};
use crate::ops::cpu::simd::vectorized;
use crate::ops::cpu::{slice, unspecified};
use crate::ops::rms_norm::Saved;
use candle_core::{DType, Tensor};
use half::bf16;
use rayon::prelude::*;

/// Rows per task. Fixed, so that the order in which `dw` is summed does not depend on the number of threads.
const ROWS: usize = 32;

/// `None` unless the tensors are on the CPU, all f32 or all bf16, and contiguous.
pub(crate) fn forward(x: &Tensor, w: &Tensor, eps: f64) -> Result<Option<(Tensor, Saved)>> {
    match x.dtype() {
        DType::BF16 => forward_as::<bf16>(x, w, eps),
        _ => forward_as::<f32>(x, w, eps),
    }
}

fn forward_as<T: Element>(x: &Tensor, w: &Tensor, eps: f64) -> Result<Option<(Tensor, Saved)>> {
    let (Some(xs), Some(ws)) = (slice::of::<T>(x), slice::of::<T>(w)) else { return Ok(None) };
    let (xs, ws, h) = (&*xs, &*ws, w.elem_count());
    let mut y = unspecified::numbers::<T>(xs.len());
    let mut inv_rms = vec![0f32; xs.len() / h];
    y.par_chunks_mut(h * ROWS).zip(inv_rms.par_chunks_mut(ROWS)).zip(xs.par_chunks(h * ROWS)).for_each(
        |((y, inv_rms), x)| {
            vectorized(
                #[inline(always)]
                || {
                    for ((y, inv_rms), x) in y.chunks_exact_mut(h).zip(inv_rms.iter_mut()).zip(x.chunks_exact(h)) {
                        let mean = dot([x, x]) / h as f32;
                        *inv_rms = 1.0 / (mean + eps as f32).sqrt();
                        for ((y, &x), &w) in y.iter_mut().zip(x).zip(ws) {
                            *y = T::of(x.get() * *inv_rms * w.get());
                        }
                    }
                },
            )
        },
    );
    let rows = inv_rms.len();
    let saved = Saved { inv_rms: Tensor::from_vec(inv_rms, rows, x.device())? };
    Ok(Some((element::tensor(y, x.shape())?, saved)))
}

/// `None` unless the tensors are on the CPU, all f32 or all bf16, and contiguous.
pub(crate) fn backward(
    x: &Tensor,
    w: &Tensor,
    saved: &Saved,
    dy: &Tensor,
    need_dw: bool,
) -> Result<Option<(Tensor, Option<Tensor>)>> {
    match x.dtype() {
        DType::BF16 => backward_as::<bf16>(x, w, saved, dy, need_dw),
        _ => backward_as::<f32>(x, w, saved, dy, need_dw),
    }
}

fn backward_as<T: Element>(
    x: &Tensor,
    w: &Tensor,
    saved: &Saved,
    dy: &Tensor,
    need_dw: bool,
) -> Result<Option<(Tensor, Option<Tensor>)>> {
    let ([Some(xs), Some(ws), Some(dys)], Some(inv_rms)) = ([x, w, dy].map(slice::of::<T>), slice::of(&saved.inv_rms))
    else {
        return Ok(None);
    };
    let (xs, ws, inv_rms, dys, h) = (&*xs, &*ws, &*inv_rms, &*dys, w.elem_count());
    let mut dx = unspecified::numbers::<T>(xs.len());
    // One partial sum per task, added up in order below.
    let partial: Vec<Vec<f32>> = dx
        .par_chunks_mut(h * ROWS)
        .zip(inv_rms.par_chunks(ROWS))
        .zip(xs.par_chunks(h * ROWS))
        .zip(dys.par_chunks(h * ROWS))
        .map(|(((dx, inv_rms), x), dy)| {
            let mut dw = vec![0f32; if need_dw { h } else { 0 }];
            vectorized(
                #[inline(always)]
                || {
                    let rows = x.chunks_exact(h).zip(dy.chunks_exact(h));
                    for ((dx, &inv), (x, dy)) in dx.chunks_exact_mut(h).zip(inv_rms).zip(rows) {
                        backward_row(x, ws, inv, dy, dx);
                        if need_dw {
                            for ((dw, &dy), &x) in dw.iter_mut().zip(dy).zip(x) {
                                *dw = (dy.get() * inv).mul_add(x.get(), *dw);
                            }
                        }
                    }
                },
            );
            dw
        })
        .collect();
    let dw = if need_dw {
        let mut dw = vec![0f32; h];
        for partial in partial {
            dw.iter_mut().zip(partial).for_each(|(dw, p)| *dw += p);
        }
        Some(element::tensor(dw.into_iter().map(T::of).collect(), h)?)
    } else {
        None
    };
    Ok(Some((element::tensor(dx, x.shape())?, dw)))
}

#[inline(always)]
fn backward_row<T: Element>(x: &[T], w: &[T], inv_rms: f32, dy: &[T], dx: &mut [T]) {
    let along = dot([x, dy, w]) / x.len() as f32 * inv_rms * inv_rms;
    for ((dx, &x), (dy, w)) in dx.iter_mut().zip(x).zip(dy.iter().zip(w)) {
        *dx = T::of(inv_rms * (dy.get() * w.get() - x.get() * along));
    }
}

/// Σ of the products of N vectors of one length, in 32 running sums, which keeps several vector registers busy and the
/// rounding errors small.
#[inline(always)]
fn dot<T: Element, const N: usize>(vectors: [&[T]; N]) -> f32 {
    const LANES: usize = 32;
    let mut sums = [0f32; LANES];
    let chunked = vectors.map(|v| v.as_chunks::<LANES>());
    let product = |at: [T; N]| at.iter().map(|v| v.get()).product::<f32>();
    for c in 0..chunked[0].0.len() {
        let chunks = chunked.map(|(chunks, _)| &chunks[c]);
        for i in 0..LANES {
            sums[i] += product(chunks.map(|chunk| chunk[i]));
        }
    }
    let rest = chunked.map(|(_, rest)| rest);
    let rest: f32 = (0..rest[0].len()).map(|i| product(rest.map(|rest| rest[i]))).sum();
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            sums[i] += sums[i + width];
        }
        width /= 2;
    }
    sums[0] + rest
}
