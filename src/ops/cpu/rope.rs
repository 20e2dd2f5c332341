//! Rotary position embedding in one pass; see `ops::rope` for the mathematics.

use crate::error::Result;
use crate::ops::cpu::element::{self, Element};
use crate::ops::cpu::simd::vectorized;
use crate::ops::cpu::{slice, unspecified};
use crate::ops::rope::{RopeTable, Turn};
use candle_core::{DType, Tensor};
use half::bf16;
use rayon::prelude::*;

/// Tokens per task.
const ROWS: usize = 16;

/// `None` unless the tensors are on the CPU, x f32 or bf16, the table f32, and contiguous.
pub(crate) fn rotate(x: &Tensor, table: &RopeTable, positions: &[u32], turn: Turn) -> Result<Option<Tensor>> {
    match x.dtype() {
        DType::BF16 => rotate_as::<bf16>(x, table, positions, turn),
        _ => rotate_as::<f32>(x, table, positions, turn),
    }
}

fn rotate_as<T: Element>(x: &Tensor, table: &RopeTable, positions: &[u32], turn: Turn) -> Result<Option<Tensor>> {
    let ([Some(cos), Some(sin)], Some(xs)) = ([&table.cos, &table.sin].map(slice::of::<f32>), slice::of::<T>(x)) else {
        return Ok(None);
    };
    let (xs, cos, sin) = (&*xs, &*cos, &*sin);
    let (width, half) = (x.dim(1)?, table.head_dim / 2);
    let sign = if turn == Turn::Forward { 1.0 } else { -1.0 };
    let mut y = unspecified::numbers::<T>(xs.len());
    if width > 0 {
        y.par_chunks_mut(width * ROWS).zip(xs.par_chunks(width * ROWS)).zip(positions.par_chunks(ROWS)).for_each(
            |((y, x), positions)| {
                vectorized(
                    #[inline(always)]
                    || {
                        for ((y, x), &p) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(positions) {
                            let angles = p as usize * half..(p as usize + 1) * half;
                            rotate_token(x, &cos[angles.clone()], &sin[angles], sign, y);
                        }
                    },
                )
            },
        );
    }
    Ok(Some(element::tensor(y, x.shape())?))
}

/// All heads of one token.
#[inline(always)]
fn rotate_token<T: Element>(x: &[T], cos: &[f32], sin: &[f32], sign: f32, y: &mut [T]) {
    let half = cos.len();
    for (y, x) in y.chunks_exact_mut(2 * half).zip(x.chunks_exact(2 * half)) {
        let (first, second) = x.split_at(half);
        let (y_first, y_second) = y.split_at_mut(half);
        for i in 0..half {
            let s = sign * sin[i];
            let (a, b) = (first[i].get(), second[i].get());
            y_first[i] = T::of(a * cos[i] - b * s);
            y_second[i] = T::of(b * cos[i] + a * s);
        }
    }
}
