//! The feed-forward gate in one pass; see `ops::swiglu` for the mathematics.

use crate::error::Result;
use crate::ops::cpu::element::{self, Element, TOGETHER};
use crate::ops::cpu::exp::sigmoid;
use crate::ops::cpu::{slice, unspecified};
use candle_core::{DType, Tensor};
use half::bf16;
use rayon::prelude::*;

/// Elements per task.
const CHUNK: usize = 16 * 1024;

/// `None` unless the tensors are on the CPU, all f32 or all bf16, and contiguous.
pub(crate) fn forward(gate: &Tensor, up: &Tensor) -> Result<Option<Tensor>> {
    match gate.dtype() {
        DType::BF16 => forward_as::<bf16>(gate, up),
        _ => forward_as::<f32>(gate, up),
    }
}

fn forward_as<T: Element>(gate: &Tensor, up: &Tensor) -> Result<Option<Tensor>> {
    let (Some(gates), Some(ups)) = (slice::of::<T>(gate), slice::of::<T>(up)) else { return Ok(None) };
    let (gates, ups) = (&*gates, &*ups);
    let mut y = unspecified::numbers::<T>(gates.len());
    y.par_chunks_mut(CHUNK).zip(gates.par_chunks(CHUNK)).zip(ups.par_chunks(CHUNK)).for_each(|((y, gate), up)| {
        element::fill(
            y,
            #[inline(always)]
            |range, y| {
                for ((y, gate), up) in y.iter_mut().zip(&gate[range.clone()]).zip(&up[range]) {
                    let gate = gate.get();
                    *y = gate * sigmoid(gate) * up.get();
                }
            },
        );
    });
    Ok(Some(element::tensor(y, gate.shape())?))
}

/// `None` unless the tensors are on the CPU, all f32 or all bf16, and contiguous.
pub(crate) fn backward(gate: &Tensor, up: &Tensor, dy: &Tensor) -> Result<Option<(Tensor, Tensor)>> {
    match gate.dtype() {
        DType::BF16 => backward_as::<bf16>(gate, up, dy),
        _ => backward_as::<f32>(gate, up, dy),
    }
}

fn backward_as<T: Element>(gate: &Tensor, up: &Tensor, dy: &Tensor) -> Result<Option<(Tensor, Tensor)>> {
    let [Some(gates), Some(ups), Some(dys)] = [gate, up, dy].map(slice::of::<T>) else { return Ok(None) };
    let (gates, ups, dys) = (&*gates, &*ups, &*dys);
    let (mut dgate, mut dup) = (unspecified::numbers::<T>(gates.len()), unspecified::numbers::<T>(gates.len()));
    let inputs = gates.par_chunks(CHUNK).zip(ups.par_chunks(CHUNK)).zip(dys.par_chunks(CHUNK));
    dgate.par_chunks_mut(CHUNK).zip(dup.par_chunks_mut(CHUNK)).zip(inputs).for_each(
        |((dgate, dup), ((gate, up), dy))| {
            let mut dups = [0f32; TOGETHER];
            let inputs = gate.chunks(TOGETHER).zip(up.chunks(TOGETHER)).zip(dy.chunks(TOGETHER));
            for ((dgate, dup), ((gate, up), dy)) in dgate.chunks_mut(TOGETHER).zip(dup.chunks_mut(TOGETHER)).zip(inputs)
            {
                let dups = &mut dups[..dup.len()];
                element::fill(
                    dgate,
                    #[inline(always)]
                    |_, dgates| {
                        let outputs = dgates.iter_mut().zip(dups.iter_mut());
                        for ((dgate, dup), ((gate, up), dy)) in outputs.zip(gate.iter().zip(up).zip(dy)) {
                            let (gate, up, dy) = (gate.get(), up.get(), dy.get());
                            let s = sigmoid(gate);
                            *dgate = dy * up * s * (1.0 + gate * (1.0 - s));
                            *dup = dy * gate * s;
                        }
                    },
                );
                T::put(dups, dup);
            }
        },
    );
    let out = |values: Vec<T>| element::tensor(values, gate.shape());
    Ok(Some((out(dgate)?, out(dup)?)))
}
