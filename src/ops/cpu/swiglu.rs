//! The feed-forward gate in one pass; see `ops::swiglu` for the mathematics.

use crate::error::Result;
use crate::ops::cpu::exp::sigmoid;
use crate::ops::cpu::simd::vectorized;
use crate::ops::cpu::slice;
use candle_core::Tensor;
use rayon::prelude::*;

/// Elements per task.
const CHUNK: usize = 16 * 1024;

/// `None` unless the tensors are on the CPU, f32 and contiguous.
pub(crate) fn forward(gate: &Tensor, up: &Tensor) -> Result<Option<Tensor>> {
    let (Some(gates), Some(ups)) = (slice::of::<f32>(gate), slice::of::<f32>(up)) else { return Ok(None) };
    let (gates, ups) = (&*gates, &*ups);
    let mut y = vec![0f32; gates.len()];
    y.par_chunks_mut(CHUNK).zip(gates.par_chunks(CHUNK)).zip(ups.par_chunks(CHUNK)).for_each(|((y, gate), up)| {
        vectorized(
            #[inline(always)]
            || {
                for ((y, &gate), &up) in y.iter_mut().zip(gate).zip(up) {
                    *y = gate * sigmoid(gate) * up;
                }
            },
        )
    });
    Ok(Some(Tensor::from_vec(y, gate.shape(), gate.device())?))
}

/// `None` unless the tensors are on the CPU, f32 and contiguous.
pub(crate) fn backward(gate: &Tensor, up: &Tensor, dy: &Tensor) -> Result<Option<(Tensor, Tensor)>> {
    let [Some(gates), Some(ups), Some(dys)] = [gate, up, dy].map(slice::of::<f32>) else { return Ok(None) };
    let (gates, ups, dys) = (&*gates, &*ups, &*dys);
    let mut dgate = vec![0f32; gates.len()];
    let mut dup = vec![0f32; gates.len()];
    let inputs = gates.par_chunks(CHUNK).zip(ups.par_chunks(CHUNK)).zip(dys.par_chunks(CHUNK));
    dgate.par_chunks_mut(CHUNK).zip(dup.par_chunks_mut(CHUNK)).zip(inputs).for_each(
        |((dgate, dup), ((gate, up), dy))| {
            vectorized(
                #[inline(always)]
                || {
                    let inputs = gate.iter().zip(up).zip(dy);
                    for ((dgate, dup), ((&gate, &up), &dy)) in dgate.iter_mut().zip(dup.iter_mut()).zip(inputs) {
                        let s = sigmoid(gate);
                        *dgate = dy * up * s * (1.0 + gate * (1.0 - s));
                        *dup = dy * gate * s;
                    }
                },
            )
        },
    );
    let out = |values| Tensor::from_vec(values, gate.shape(), gate.device());
    Ok(Some((out(dgate)?, out(dup)?)))
}
