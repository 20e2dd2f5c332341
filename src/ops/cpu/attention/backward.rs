//! One pass over the visible tiles, each of whose scores are computed once.
//!
//! A task has some heads of one sequence, all of which use one key head, and writes into memory of its own; the tasks'
//! results are then put together, and added where several used one key head, in a fixed order.

use super::{TILE, View, blocks, head, multiply, take};
use crate::error::Result;
use crate::ops::attention::{Backward, Heads};
use crate::ops::cpu::element::{self, Element};
use crate::ops::cpu::exp::exp;
use crate::ops::cpu::product::{Factor, Old};
use crate::ops::cpu::simd::vectorized;
use crate::ops::cpu::{slice, unspecified};
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

fn backward_as<T: Factor>(
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

    let (mut dq, mut dk, mut dv) =
        (unspecified::numbers::<T>(qs.len()), unspecified::numbers::<T>(ks.len()), unspecified::numbers::<T>(vs.len()));
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
        let tiles = (cu_seqlens[sequence + 1] - cu_seqlens[sequence]).div_ceil(TILE);
        for h in 0..heads.n_heads {
            let tile = h % per_task * tiles + rows.start / TILE;
            let tile = &parts[h / per_task].1.dq[tile * d * TILE..][..d * TILE];
            for (j, out) in dq.chunks_exact_mut(width).enumerate() {
                let column = tile[j..].iter().step_by(TILE);
                out[h * d..(h + 1) * d].iter_mut().zip(column).for_each(|(out, v)| *out = T::of(*v));
            }
        }
        // The tasks of a key head: one, or one for each of its query heads.
        for (kv_head, parts) in parts.chunks_exact(heads.group() / per_task).enumerate() {
            let of = |get: fn(&Part) -> &[f32]| parts.iter().map(|(_, part)| get(part)).collect::<Vec<_>>();
            put_sum(&of(|part| &part.dk), d, rows.clone(), dk, kv_width, kv_head * d);
            put_sum(&of(|part| &part.dv), d, rows.clone(), dv, kv_width, kv_head * d);
        }
    });
    Ok(Some((element::tensor(dq, q.shape())?, element::tensor(dk, k.shape())?, element::tensor(dv, v.shape())?)))
}

/// Writes the sum of `rows` of matrices of `d` columns to the columns of `out` from `column` on.
fn put_sum<T: Element>(parts: &[&[f32]], d: usize, rows: Range<usize>, out: &mut [T], width: usize, column: usize) {
    let mut sum = vec![0f32; d];
    for (row, out) in rows.zip(out.chunks_exact_mut(width)) {
        sum.copy_from_slice(&parts[0][row * d..(row + 1) * d]);
        for part in &parts[1..] {
            sum.iter_mut().zip(&part[row * d..]).for_each(|(sum, part)| *sum += part);
        }
        out[column..column + d].iter_mut().zip(&sum).for_each(|(out, sum)| *out = T::of(*sum));
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
    /// For each head and each tile of queries, the transposed gradient `[d, TILE]`.
    dq: Vec<f32>,
    /// `[L, d]`.
    dk: Vec<f32>,
    dv: Vec<f32>,
}

impl<T: Factor> Inputs<'_, T> {
    /// `rows` are the sequence's, `q_heads` share a key head.
    ///
    /// Tiles lie transposed here, keys by queries: so the products for keys and values take them as they are, and the
    /// one for queries needs a transposed copy of the keys, made once.
    fn backward(&self, rows: Range<usize>, q_heads: Range<usize>) -> Part {
        let _ready = T::hold();
        let (len, d) = (rows.len(), self.heads.head_dim);
        let (width, kv_width) = (self.heads.q_width(), self.heads.kv_width());
        let (scale, kv_head) = (self.heads.scale() as f32, q_heads.start / self.heads.group());
        let (tiles, tile_len) = (len.div_ceil(TILE), d * TILE);
        let dq = vec![0.; q_heads.len() * tiles * tile_len];
        let mut part = Part { dq, dk: vec![0.; len * d], dv: vec![0.; len * d] };
        let mut keys_transposed = vec![T::of(0.); tile_len];
        let mut pair = Pair::new();
        for (key_tile, start) in (0..len).step_by(TILE).enumerate() {
            let keys = start..(start + TILE).min(len);
            let n = keys.len();
            let key_rows = rows.start + keys.start..rows.start + keys.end;
            let k = head(self.k, kv_width, key_rows.clone(), kv_head, d);
            let v = head(self.v, kv_width, key_rows, kv_head, d);
            for i in 0..n {
                let key = &k.data[i * k.stride..][..d];
                keys_transposed[i..].iter_mut().step_by(TILE).zip(key).for_each(|(to, k)| *to = *k);
            }
            let k_transposed = View { data: &keys_transposed, rows: d, cols: n, stride: TILE };
            for query_tile in key_tile..tiles {
                let queries = query_tile * TILE..((query_tile + 1) * TILE).min(len);
                let m = queries.len();
                let query_rows = rows.start + queries.start..rows.start + queries.end;
                for h in q_heads.clone() {
                    let q = head(self.q, width, query_rows.clone(), h, d);
                    let d_o = head(self.d_o, width, query_rows.clone(), h, d);
                    let [scores, dp] = [&mut pair.scores, &mut pair.dp].map(|tile| tile.as_flattened_mut());
                    multiply(scale, k, q.transposed(), scores, TILE, Old::Overwrite);
                    multiply(1., v, d_o.transposed(), dp, TILE, Old::Overwrite);
                    self.softmax_backward(query_rows.clone(), h, n, query_tile == key_tile, &mut pair);

                    let p = View { data: &pair.p, rows: n, cols: m, stride: TILE };
                    let ds = View { data: &pair.ds, ..p };
                    let dv = &mut part.dv[keys.start * d..keys.end * d];
                    multiply(1., p, d_o.plain(), dv, d, Old::Add);
                    let dk = &mut part.dk[keys.start * d..keys.end * d];
                    multiply(scale, ds, q.plain(), dk, d, Old::Add);
                    let dq = &mut part.dq[((h - q_heads.start) * tiles + query_tile) * tile_len..][..tile_len];
                    multiply(scale, k_transposed, ds.plain(), dq, TILE, Old::Add);
                }
            }
        }
        part
    }

    /// Turns the scores of `n` keys by the queries `rows` into probabilities, and their gradients into those of the scores.
    fn softmax_backward(&self, rows: Range<usize>, h: usize, n: usize, diagonal: bool, pair: &mut Pair<T>) {
        let (mut lse, mut delta) = ([0f32; TILE], [0f32; TILE]);
        for (j, row) in rows.enumerate() {
            let at = row * self.heads.n_heads + h;
            (lse[j], delta[j]) = (self.lse[at], self.delta[at]);
        }
        let Pair { scores, dp, p, ds } = pair;
        vectorized(
            #[inline(always)]
            || {
                let tiles = scores.iter_mut().zip(dp.iter()).zip(p.as_chunks_mut::<TILE>().0);
                for (i, (((scores, dp), p), ds)) in tiles.zip(ds.as_chunks_mut::<TILE>().0).take(n).enumerate() {
                    // On the diagonal key i is hidden from the queries before it.
                    scores[..if diagonal { i } else { 0 }].fill(f32::NEG_INFINITY);
                    for j in 0..TILE {
                        let probability = exp(scores[j] - lse[j]);
                        p[j] = T::of(probability);
                        ds[j] = T::of(probability * (dp[j] - delta[j]));
                    }
                }
            },
        )
    }
}

/// A tile of keys by queries, and what is computed for it.
struct Pair<T> {
    scores: Vec<[f32; TILE]>,
    /// The gradient of the probabilities.
    dp: Vec<[f32; TILE]>,
    p: Vec<T>,
    /// The gradient of the scores.
    ds: Vec<T>,
}

impl<T: Factor> Pair<T> {
    fn new() -> Self {
        let (floats, zeros) = (vec![[0.; TILE]; TILE], vec![T::of(0.); TILE * TILE]);
        Self { scores: floats.clone(), dp: floats, p: zeros.clone(), ds: zeros }
    }
}
