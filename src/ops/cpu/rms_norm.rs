//! Root mean square normalisation, one pass over each row; see `ops::rms_norm` for the mathematics.

use crate::error::Result;
use crate::ops::cpu::simd::vectorized;
use crate::ops::cpu::slice;
use crate::ops::rms_norm::Saved;
use candle_core::Tensor;
use rayon::prelude::*;

/// Rows per task. Fixed, so that the order in which `dw` is summed does not depend on the number of threads.
const ROWS: usize = 32;

/// `None` unless the tensors are on the CPU, f32 and contiguous.
pub(crate) fn forward(x: &Tensor, w: &Tensor, eps: f64) -> Result<Option<(Tensor, Saved)>> {
    let (Some(xs), Some(ws)) = (slice::of::<f32>(x), slice::of::<f32>(w)) else { return Ok(None) };
    let (xs, ws, h) = (&*xs, &*ws, w.elem_count());
    let mut y = vec![0f32; xs.len()];
    let mut inv_rms = vec![0f32; xs.len() / h];
    y.par_chunks_mut(h * ROWS).zip(inv_rms.par_chunks_mut(ROWS)).zip(xs.par_chunks(h * ROWS)).for_each(
        |((y, inv_rms), x)| {
            vectorized(
                #[inline(always)]
                || {
                    for ((y, inv_rms), x) in y.chunks_exact_mut(h).zip(inv_rms.iter_mut()).zip(x.chunks_exact(h)) {
                        let mean = dot(x, x) / h as f32;
                        *inv_rms = 1.0 / (mean + eps as f32).sqrt();
                        for ((y, &x), &w) in y.iter_mut().zip(x).zip(ws) {
                            *y = x * *inv_rms * w;
                        }
                    }
                },
            )
        },
    );
    let rows = inv_rms.len();
    let saved = Saved { inv_rms: Tensor::from_vec(inv_rms, rows, x.device())? };
    Ok(Some((Tensor::from_vec(y, x.shape(), x.device())?, saved)))
}

/// `None` unless the tensors are on the CPU, f32 and contiguous.
pub(crate) fn backward(
    x: &Tensor,
    w: &Tensor,
    saved: &Saved,
    dy: &Tensor,
    need_dw: bool,
) -> Result<Option<(Tensor, Option<Tensor>)>> {
    let [Some(xs), Some(ws), Some(inv_rms), Some(dys)] = [x, w, &saved.inv_rms, dy].map(slice::of::<f32>) else {
        return Ok(None);
    };
    let (xs, ws, inv_rms, dys, h) = (&*xs, &*ws, &*inv_rms, &*dys, w.elem_count());
    let mut dx = vec![0f32; xs.len()];
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
                                *dw = (dy * inv).mul_add(x, *dw);
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
        Some(Tensor::from_vec(dw, h, x.device())?)
    } else {
        None
    };
    Ok(Some((Tensor::from_vec(dx, x.shape(), x.device())?, dw)))
}

#[inline(always)]
fn backward_row(x: &[f32], w: &[f32], inv_rms: f32, dy: &[f32], dx: &mut [f32]) {
    // dx holds g = dy ∘ w until the mean of g ∘ x is known.
    for ((dx, &dy), &w) in dx.iter_mut().zip(dy).zip(w) {
        *dx = dy * w;
    }
    let along = dot(dx, x) / x.len() as f32 * inv_rms * inv_rms;
    for (dx, &x) in dx.iter_mut().zip(x) {
        *dx = inv_rms * (*dx - x * along);
    }
}

/// Σ a·b in 32 running sums, which keeps several vector registers busy and the rounding errors small.
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 32;
    let mut sums = [0f32; LANES];
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            sums[i] = a[i].mul_add(b[i], sums[i]);
        }
    }
    let mut rest = 0.0;
    for (a, b) in a_rest.iter().zip(b_rest) {
        rest = a.mul_add(*b, rest);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            sums[i] += sums[i + width];
        }
        width /= 2;
    }
    sums[0] + rest
}
