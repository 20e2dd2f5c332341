//! Clipping gradients by their norm over all parameters.
//!
//! `norm = sqrt(Σ g²)` over every element of every gradient; each gradient is then multiplied by
//! `min(1, max_norm / (norm + 1e-6))`.
//!
//! Source: torch `nn/utils/clip_grad.py`. Unlike there, squares are summed in f64, and the sum has the same bits for any
//! number of threads.

use candle_core::{CpuStorage, DType, Storage, Tensor};
use rayon::prelude::*;

use crate::Result;

/// Elements summed by one task. A constant, so that the order of the sum never depends on the number of threads.
const CHUNK: usize = 1 << 14;

/// Scales `grads` so that their norm over all of them is at most `max_norm`; returns the norm before.
///
/// A gradient that needs scaling is replaced by a new tensor. `max_norm = 0` turns clipping off, as in transformers.
/// A norm that is not finite is returned as it is and nothing is scaled; the caller has to stop then.
///
/// Errors: only what candle reports.
pub fn clip_grad_norm(grads: &mut [Tensor], max_norm: f64) -> Result<f64> {
    // Many small tensors: a thread takes one at a time, but on the CPU only.
    let on_cpu = grads.iter().all(|grad| grad.device().is_cpu());
    let sums: Vec<f64> = if on_cpu {
        grads.par_iter().map(sum_of_squares).collect::<Result<_>>()?
    } else {
        grads.iter().map(sum_of_squares).collect::<Result<_>>()?
    };
    let norm = sums.iter().sum::<f64>().sqrt();
    let factor = max_norm / (norm + 1e-6);
    if max_norm > 0.0 && norm.is_finite() && factor < 1.0 {
        let scale = |grad: &mut Tensor| -> Result<()> {
            *grad = grad.affine(factor, 0.0)?;
            Ok(())
        };
        if on_cpu {
            grads.par_iter_mut().try_for_each(scale)?;
        } else {
            grads.iter_mut().try_for_each(scale)?;
        }
    }
    Ok(norm)
}

/// Σ g² in f64. On devices other than the CPU, one tensor is summed there in f32.
fn sum_of_squares(grad: &Tensor) -> Result<f64> {
    if grad.dtype() == DType::F32 && grad.device().is_cpu() && grad.is_contiguous() {
        let (storage, layout) = grad.storage_and_layout();
        if let Storage::Cpu(CpuStorage::F32(values)) = &*storage {
            let start = layout.start_offset();
            let values = &values[start..start + layout.shape().elem_count()];
            let partial: Vec<f64> =
                values.par_chunks(CHUNK).map(|c| c.iter().map(|&x| f64::from(x) * f64::from(x)).sum()).collect();
            return Ok(partial.iter().sum());
        }
    }
    let sum = grad.to_dtype(DType::F32)?.sqr()?.sum_all()?.to_scalar::<f32>()?;
    Ok(f64::from(sum))
}
