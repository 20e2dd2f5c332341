//! Rows gathered on all threads; see `ops::gather`.

use crate::error::Result;
use crate::ops::cpu::element::{self, Element};
use crate::ops::cpu::{slice, unspecified};
use candle_core::{DType, Tensor};
use half::bf16;
use rayon::prelude::*;

/// Elements per task.
const CHUNK: usize = 16 * 1024;

/// `None` unless the tensor is on the CPU, f32 or bf16, and contiguous.
///
/// Row i of the result is the sum of the rows `sources[offsets[i]..offsets[i + 1]]` of `x` `[in, n]`, all of which exist.
pub(crate) fn apply(x: &Tensor, offsets: &[u32], sources: &[u32]) -> Result<Option<Tensor>> {
    match x.dtype() {
        DType::BF16 => apply_as::<bf16>(x, offsets, sources),
        _ => apply_as::<f32>(x, offsets, sources),
    }
}

fn apply_as<T: Element>(x: &Tensor, offsets: &[u32], sources: &[u32]) -> Result<Option<Tensor>> {
    let (Some(xs), &[_, width]) = (slice::of::<T>(x), x.dims()) else { return Ok(None) };
    let (xs, count) = (&*xs, offsets.len() - 1);
    let mut y = unspecified::numbers::<T>(count * width);
    let rows = (CHUNK / width.max(1)).max(1);
    y.par_chunks_mut((rows * width).max(1)).enumerate().for_each(|(i, y)| {
        for (row, y) in (i * rows..).zip(y.chunks_exact_mut(width)) {
            let sources = &sources[offsets[row] as usize..offsets[row + 1] as usize];
            let row = |source: u32| &xs[source as usize * width..][..width];
            match *sources {
                [source] => y.copy_from_slice(row(source)),
                _ => element::fill(
                    y,
                    #[inline(always)]
                    |range, sums| {
                        sums.fill(0.);
                        for &source in sources {
                            sums.iter_mut().zip(&row(source)[range.clone()]).for_each(|(sum, x)| *sum += x.get());
                        }
                    },
                ),
            }
        }
    });
    Ok(Some(element::tensor(y, (count, width))?))
}
