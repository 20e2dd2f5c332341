//! One pass over the visible tiles, each of whose scores are computed once.
//!
//! A task has some heads of one sequence, all of which use one key head, and writes into memory of its own; the tasks'
//! results are then put together, and added where several used one key head, in a fixed order.

use super::{TILE, Tile, blocks, head, take};
use crate::error::Result;
use crate::ops::attention::{Backward, Heads};
use crate::ops::cpu::element::{self, Element};
use crate::ops::cpu::exp::exp;
use crate::ops::cpu::gemm::{Mat, MatMut, Old, Threads, gemm};
use crate::ops::cpu::simd::vectorized;
use crate::ops::cpu::{scratch, slice};
use candle_core::{DType, Tensor};
use half::bf16;
use rayon::prelude::*;
use std::ops::Range;

/// `None` unless the tensors are on the CPU, all f32 or all bf16, and contiguous.
pub(crate) fn backward(
    tensors: &Backward,
    cu_seqlens: &[usize],
    heads: &Heads,
) -> Result<Option<(Tensor, Tensor, Tensor)>> {
    match tensors.q.dtype() {
        DType::BF16 => backward_as::<bf16>(tensors, cu_seqlens, heads),
        _ => backward_as::<f32>(tensors, cu_seqlens, heads),
    }
}

fn backward_as<T: Element>(
    tensors: &Backward,
    cu_seqlens: &[usize],
    heads: &Heads,
) -> Result<Option<(Tensor, Tensor, Tensor)>> {
    let Backward { q, k, v, o, lse, d_o } = *tensors;
    let lent = [q, k, v, o, d_o].map(slice::of::<T>);
    let ([Some(qs), Some(ks), Some(vs), Some(os), Some(d_os)], Some(lse)) = (&lent, slice::of::<f32>(lse)) else {
        return Ok(None);
    };
    let delta = delta(os, d_os, heads);
    let inputs = Inputs { q: qs, k: ks, v: vs, d_o: d_os, lse: &lse, delta: &delta, heads };

    // Query heads with a common key head go into one task if that leaves enough tasks to share evenly.
    let sequences = cu_seqlens.len() - 1;
    let together = sequences * heads.n_kv_heads >= 4 * rayon::current_num_threads();
    let per_task = if together { heads.group() } else { 1 };
    let parts = heads.n_heads / per_task;
    let mut tasks: Vec<_> = (0..sequences * parts).collect();
    let rows = |task: usize| cu_seqlens[task / parts]..cu_seqlens[task / parts + 1];
    tasks.sort_by_key(|&task| std::cmp::Reverse(rows(task).len()));
    let mut done: Vec<_> = tasks
        .into_par_iter()
        .with_max_len(1)
        .map(|task| {
            let first = task % parts * per_task;
            (task, inputs.backward(rows(task), first..first + per_task))
        })
        .collect();
    done.sort_by_key(|(task, _)| *task);

    let (mut dq, mut dk, mut dv) = (T::zeros(qs.len()), T::zeros(ks.len()), T::zeros(vs.len()));
    let (mut dq_rest, mut dk_rest, mut dv_rest) = (&mut dq[..], &mut dk[..], &mut dv[..]);
    let (width, kv_width, d) = (heads.q_width(), heads.kv_width(), heads.head_dim);
    let jobs: Vec<_> = blocks(cu_seqlens, TILE)
        .into_iter()
        .map(|(sequence, rows)| {
            let out = [
                take(&mut dq_rest, rows.len() * width),
                take(&mut dk_rest, rows.len() * kv_width),
                take(&mut dv_rest, rows.len() * kv_width),
            ];
            (sequence, rows.start - cu_seqlens[sequence]..rows.end - cu_seqlens[sequence], out)
        })
        .collect();
    jobs.into_par_iter().for_each(|(sequence, rows, [dq, dk, dv])| {
        let parts = &done[sequence * parts..(sequence + 1) * parts];
        // `group` heads of q to a key head, so that many tasks or one.
        let shared = heads.group() / per_task;
        for (kv_head, parts) in parts.chunks_exact(shared).enumerate() {
            for (i, (_, part)) in parts.iter().enumerate() {
                let first = (kv_head * shared + i) * per_task;
                put_columns(&[&part.dq], per_task * d, rows.clone(), dq, width, first * d);
            }
            let of = |get: fn(&Part) -> &Vec<f32>| parts.iter().map(|(_, part)| &get(part)[..]).collect::<Vec<_>>();
            put_columns(&of(|part| &part.dk), d, rows.clone(), dk, kv_width, kv_head * d);
            put_columns(&of(|part| &part.dv), d, rows.clone(), dv, kv_width, kv_head * d);
        }
    });
    Ok(Some((element::tensor(dq, q.shape())?, element::tensor(dk, k.shape())?, element::tensor(dv, v.shape())?)))
}

/// Writes the sum of `rows` of matrices of `part_width` columns to the columns of `out` from `column` on.
fn put_columns<T: Element>(
    parts: &[&[f32]],
    part_width: usize,
    rows: Range<usize>,
    out: &mut [T],
    width: usize,
    column: usize,
) {
    let mut sum = vec![0f32; part_width];
    for (row, out) in rows.zip(out.chunks_exact_mut(width)) {
        let row = row * part_width..(row + 1) * part_width;
        sum.copy_from_slice(&parts[0][row.clone()]);
        for part in &parts[1..] {
            sum.iter_mut().zip(&part[row.clone()]).for_each(|(sum, part)| *sum += part);
        }
        out[column..column + part_width].iter_mut().zip(&sum).for_each(|(out, sum)| *out = T::of(*sum));
    }
}

/// The sum of do ∘ o over each head of each row, `[T, n_heads]`.
fn delta<T: Element>(o: &[T], d_o: &[T], heads: &Heads) -> Vec<f32> {
    let d = heads.head_dim;
    let mut delta = vec![0f32; o.len() / d];
    let rows = heads.n_heads * 16;
    delta.par_chunks_mut(rows).zip(o.par_chunks(rows * d)).zip(d_o.par_chunks(rows * d)).for_each(
        |((delta, o), d_o)| {
            for ((delta, o), d_o) in delta.iter_mut().zip(o.chunks_exact(d)).zip(d_o.chunks_exact(d)) {
                *delta = o.iter().zip(d_o).map(|(o, d_o)| o.get() * d_o.get()).sum();
            }
        },
    );
    delta
}

struct Inputs<'a, T> {
    q: &'a [T],
    k: &'a [T],
    v: &'a [T],
    d_o: &'a [T],
    lse: &'a [f32],
    delta: &'a [f32],
    heads: &'a Heads,
}

/// The gradients from some heads of one sequence.
struct Part {
    /// `[L, heads of the task·d]`.
    dq: Vec<f32>,
    /// `[L, d]`.
    dk: Vec<f32>,
    dv: Vec<f32>,
}

impl<T: Element> Inputs<'_, T> {
    /// `rows` are the sequence's, `q_heads` share a key head.
    fn backward(&self, rows: Range<usize>, q_heads: Range<usize>) -> Part {
        let (len, d) = (rows.len(), self.heads.head_dim);
        let (width, kv_width) = (self.heads.q_width(), self.heads.kv_width());
        let (scale, kv_head) = (self.heads.scale() as f32, q_heads.start / self.heads.group());
        let dq_width = q_heads.len() * d;
        let mut part = Part { dq: vec![0.; len * dq_width], dk: vec![0.; len * d], dv: vec![0.; len * d] };
        let (mut p, mut ds) = (vec![[0f32; TILE]; TILE], vec![[0f32; TILE]; TILE]);
        scratch::with(4 * TILE * d, |rooms: &mut [f32]| {
            let mut rooms = rooms.chunks_exact_mut(TILE * d);
            let mut room = || rooms.next().unwrap_or_default();
            let (k_room, v_room, q_room, d_o_room) = (room(), room(), room(), room());
            for key_start in (0..len).step_by(TILE) {
                let keys = key_start..(key_start + TILE).min(len);
                let n = keys.len();
                let key_rows = rows.start + keys.start..rows.start + keys.end;
                let k = head(self.k, kv_width, key_rows.clone(), kv_head, d, k_room);
                let v = head(self.v, kv_width, key_rows, kv_head, d, v_room);
                for query_start in (key_start..len).step_by(TILE) {
                    let queries = query_start..(query_start + TILE).min(len);
                    let m = queries.len();
                    let query_rows = rows.start + queries.start..rows.start + queries.end;
                    for h in q_heads.clone() {
                        let q = head(self.q, width, query_rows.clone(), h, d, q_room);
                        let d_o = head(self.d_o, width, query_rows.clone(), h, d, d_o_room);
                        let scores = MatMut::columns(p.as_flattened_mut(), m, n, TILE);
                        gemm(scale, q, k.t(), scores, Old::Overwrite, Threads::One);
                        let dp = MatMut::columns(ds.as_flattened_mut(), m, n, TILE);
                        gemm(1., d_o, v.t(), dp, Old::Overwrite, Threads::One);
                        let diagonal = query_start == key_start;
                        self.softmax_backward(query_rows.clone(), h, n, diagonal, &mut p[..m], &mut ds[..m]);

                        let p = Mat::new(p[..m].as_flattened(), m, TILE).columns(0..n);
                        let ds = Mat::new(ds[..m].as_flattened(), m, TILE).columns(0..n);
                        let dv = MatMut::new(&mut part.dv[keys.start * d..keys.end * d], n, d);
                        gemm(1., p.t(), d_o, dv, Old::Add, Threads::One);
                        let dk = MatMut::new(&mut part.dk[keys.start * d..keys.end * d], n, d);
                        gemm(scale, ds.t(), q, dk, Old::Add, Threads::One);
                        let dq = &mut part.dq[queries.start * dq_width + (h - q_heads.start) * d..];
                        gemm(scale, ds, k, MatMut::columns(dq, m, d, dq_width), Old::Add, Threads::One);
                    }
                }
            }
        });
        part
    }

    /// Turns scores into probabilities, and their gradients into those of the scores, in place.
    fn softmax_backward(&self, rows: Range<usize>, h: usize, n: usize, diagonal: bool, p: &mut Tile, ds: &mut Tile) {
        vectorized(
            #[inline(always)]
            || {
                for (i, (row, (p, ds))) in rows.clone().zip(p.iter_mut().zip(ds.iter_mut())).enumerate() {
                    let at = row * self.heads.n_heads + h;
                    let (lse, delta) = (self.lse[at], self.delta[at]);
                    let visible = if diagonal { i + 1 } else { n };
                    p[visible..].fill(f32::NEG_INFINITY);
                    for (p, ds) in p.iter_mut().zip(ds.iter_mut()) {
                        *p = exp(*p - lse);
                        *ds = *p * (*ds - delta);
                    }
                }
            },
        )
    }
}
