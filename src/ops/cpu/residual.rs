//! `a + b` on all threads.

use crate::error::Result;
use crate::ops::cpu::element::{self, Element};
use crate::ops::cpu::{slice, unspecified};
use candle_core::{DType, Tensor};
use half::bf16;
use rayon::prelude::*;

/// Elements per task.
const CHUNK: usize = 32 * 1024;

/// `None` unless the tensors are on the CPU, both f32 or both bf16, and contiguous.
pub(crate) fn add(a: &Tensor, b: &Tensor) -> Result<Option<Tensor>> {
    match a.dtype() {
        DType::BF16 => add_as::<bf16>(a, b),
        _ => add_as::<f32>(a, b),
    }
}

fn add_as<T: Element>(a: &Tensor, b: &Tensor) -> Result<Option<Tensor>> {
    let (Some(xs), Some(ys)) = (slice::of::<T>(a), slice::of::<T>(b)) else { return Ok(None) };
    let (xs, ys) = (&*xs, &*ys);
    let mut sum = unspecified::numbers::<T>(xs.len());
    sum.par_chunks_mut(CHUNK).zip(xs.par_chunks(CHUNK)).zip(ys.par_chunks(CHUNK)).for_each(|((sum, x), y)| {
        element::fill(
            sum,
            #[inline(always)]
            |range, sum| {
                for ((sum, x), y) in sum.iter_mut().zip(&x[range.clone()]).zip(&y[range]) {
                    *sum = x.get() + y.get();
                }
            },
        );
    });
    Ok(Some(element::tensor(sum, a.shape())?))
}
