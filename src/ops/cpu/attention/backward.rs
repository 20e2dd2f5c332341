//! One pass over the visible tiles of keys by queries, each of whose scores are computed once.
//!
//! A task has one head of one sequence, and writes into memory of its own; the tasks' results are then put together, and
//! added where several used one key head, in a fixed order. A block of scores lies transposed, keys by queries: so the
//! products for keys and values take it as it is, and only the one for queries needs it packed, and a transposed copy of the
//! keys, which is made once for all.

use super::{BLOCK, LANES, View, blocks, head, sum, take};
use crate::error::Result;
use crate::ops::attention::{Backward, Heads};
use crate::ops::cpu::element::{self, Element};
use crate::ops::cpu::exp::exp_in_range;
use crate::ops::cpu::product::{Factor, Kernel, Old, Operand, Out, Panels, Right, Rows, Threads, WIDTH, WithKernel};
use crate::ops::cpu::simd::vectorized;
use crate::ops::cpu::{scratch, slice, transpose, unspecified};
use candle_core::{DType, Tensor};
use half::bf16;
use rayon::prelude::*;
use std::ops::Range;

/// Keys that a block of scores has at most.
const KEYS: usize = 64;

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
    let (tokens, width, kv_width, d) = (q.dim(0)?, heads.q_width(), heads.kv_width(), heads.head_dim);
    let delta = delta(os, d_os, heads);
    let k_transposed = transpose::of::<T, T>(ks, tokens, kv_width);
    let inputs =
        Inputs { q: qs, k: ks, v: vs, d_o: d_os, k_transposed: &k_transposed, lse: &lse, delta: &delta, tokens, heads };

    let sequences = cu_seqlens.len() - 1;
    let rows = |task: usize| cu_seqlens[task / heads.n_heads]..cu_seqlens[task / heads.n_heads + 1];
    let mut tasks: Vec<_> = (0..sequences * heads.n_heads).collect();
    // The longest first, so that threads end together.
    tasks.sort_by_key(|&task| std::cmp::Reverse(rows(task).len()));
    let mut done: Vec<_> = tasks
        .into_par_iter()
        .with_max_len(1)
        .map(|task| (task, T::with_kernel(Head { inputs: &inputs, rows: rows(task), head: task % heads.n_heads })))
        .collect();
    done.sort_by_key(|(task, _)| *task);

    let (mut dq, mut dk, mut dv) =
        (unspecified::numbers::<T>(qs.len()), unspecified::numbers::<T>(ks.len()), unspecified::numbers::<T>(vs.len()));
    let (mut dq_rest, mut dk_rest, mut dv_rest) = (&mut dq[..], &mut dk[..], &mut dv[..]);
    let jobs: Vec<_> = blocks(cu_seqlens, KEYS)
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
        let parts = &done[sequence * heads.n_heads..(sequence + 1) * heads.n_heads];
        for (h, (_, part)) in parts.iter().enumerate() {
            let part = part.dq[rows.start * d..].chunks_exact(d.max(1));
            dq.chunks_exact_mut(width).zip(part).for_each(|(dq, part)| dq[h * d..(h + 1) * d].copy_from_slice(part));
        }
        for (kv_head, parts) in parts.chunks_exact(heads.group()).enumerate() {
            let of = |get: fn(&Part<T>) -> &[f32]| parts.iter().map(|(_, part)| get(part)).collect::<Vec<_>>();
            put_sum(&of(|part| &part.dk), d, rows.clone(), dk, kv_width, kv_head * d);
            put_sum(&of(|part| &part.dv), d, rows.clone(), dv, kv_width, kv_head * d);
        }
    });
    Ok(Some((element::tensor(dq, q.shape())?, element::tensor(dk, k.shape())?, element::tensor(dv, v.shape())?)))
}

/// Writes the sum of `rows` of matrices of `d` columns, in rows of whole panels, to the columns of `out` from `column` on.
fn put_sum<T: Element>(parts: &[&[f32]], d: usize, rows: Range<usize>, out: &mut [T], width: usize, column: usize) {
    let stride = d.next_multiple_of(WIDTH);
    let mut sum = vec![0f32; d];
    for (row, out) in rows.zip(out.chunks_exact_mut(width)) {
        vectorized(
            #[inline(always)]
            || {
                sum.copy_from_slice(&parts[0][row * stride..][..d]);
                for part in &parts[1..] {
                    sum.iter_mut().zip(&part[row * stride..]).for_each(|(sum, part)| *sum += part);
                }
            },
        );
        T::put(&sum, &mut out[column..column + d]);
    }
}

/// The sum of do ∘ o over each head of each row, `[T, n_heads]`.
fn delta<T: Element>(o: &[T], d_o: &[T], heads: &Heads) -> Vec<f32> {
    let d = heads.head_dim;
    let mut delta = vec![0f32; o.len() / d];
    let rows = heads.n_heads * 16;
    delta.par_chunks_mut(rows).zip(o.par_chunks(rows * d)).zip(d_o.par_chunks(rows * d)).for_each(
        |((delta, o), d_o)| {
            // Zeros up to whole lanes.
            let mut products = vec![[0f32; LANES]; d.div_ceil(LANES)];
            vectorized(
                #[inline(always)]
                || {
                    for ((delta, o), d_o) in delta.iter_mut().zip(o.chunks_exact(d)).zip(d_o.chunks_exact(d)) {
                        let factors = o.iter().zip(d_o);
                        let to = products.as_flattened_mut().iter_mut();
                        to.zip(factors).for_each(|(to, (o, d_o))| *to = o.get() * d_o.get());
                        *delta = sum(&products);
                    }
                },
            );
        },
    );
    delta
}

struct Inputs<'a, T> {
    q: &'a [T],
    k: &'a [T],
    v: &'a [T],
    d_o: &'a [T],
    /// `[n_kv_heads·d, tokens]`
    k_transposed: &'a [T],
    lse: &'a [f32],
    delta: &'a [f32],
    tokens: usize,
    heads: &'a Heads,
}

/// One query head of the sequence that has `rows`.
struct Head<'a, T> {
    inputs: &'a Inputs<'a, T>,
    rows: Range<usize>,
    head: usize,
}

/// The gradients from one head of one sequence.
struct Part<T> {
    /// `[L, d]`
    dq: Vec<T>,
    /// `[L, d]`, rows of whole panels.
    dk: Vec<f32>,
    dv: Vec<f32>,
}

impl<T: Factor> WithKernel<T> for Head<'_, T> {
    type Output = Part<T>;

    fn run<K: Kernel>(self, kernel: K) -> Part<T>
    where
        T: Operand<K::Number>,
    {
        let _ready = kernel.hold();
        let (len, d) = (self.rows.len(), self.inputs.heads.head_dim);
        // The first tile with a key writes over them.
        let sums = || unspecified::numbers::<f32>(len * d.next_multiple_of(WIDTH));
        let mut part = Part { dq: unspecified::numbers::<T>(len * d), dk: sums(), dv: sums() };
        scratch::with(d * BLOCK, |dq_transposed: &mut [f32]| {
            for start in (0..len).step_by(BLOCK) {
                let queries = start..(start + BLOCK).min(len);
                self.block(kernel, queries.clone(), &mut part, dq_transposed);
                let dq = part.dq[queries.start * d..queries.end * d].chunks_exact_mut(d.max(1)).enumerate();
                for (j, dq) in dq {
                    let column = dq_transposed[j..].iter().step_by(BLOCK);
                    dq.iter_mut().zip(column).for_each(|(dq, v)| *dq = T::of(*v));
                }
            }
        });
        part
    }
}

/// The right factors made of a block's queries: q and do, transposed for scores, as they are for gradients.
struct Factors<'a, N> {
    q_transposed: Panels<'a, N>,
    d_o_transposed: Panels<'a, N>,
    q: Panels<'a, N>,
    d_o: Panels<'a, N>,
}

impl<T: Factor> Head<'_, T> {
    /// Adds what `queries` of the sequence contribute to dk and dv, and writes their dq `[d, BLOCK]`.
    fn block<K: Kernel>(&self, kernel: K, queries: Range<usize>, part: &mut Part<T>, dq_transposed: &mut [f32])
    where
        T: Operand<K::Number>,
    {
        let Inputs { q, d_o, heads, .. } = *self.inputs;
        let rows = self.rows.start + queries.start..self.rows.start + queries.end;
        let [q, d_o] = [q, d_o].map(|of| head(of, heads.q_width(), rows.clone(), self.head, heads.head_dim));
        let rights = [q.transposed(), d_o.transposed(), q.plain(), d_o.plain()];
        let lens = rights.map(|right| right.packed_len::<K>());
        scratch::with(lens.iter().sum(), |mut room: &mut [K::Number]| {
            let pack = |right: Right<T>| right.pack(kernel, take(&mut room, right.packed_len::<K>()));
            let [q_transposed, d_o_transposed, q, d_o] = rights.map(pack);
            let factors = Factors { q_transposed, d_o_transposed, q, d_o };
            scratch::with(2 * KEYS * BLOCK, |wide: &mut [f32]| {
                scratch::with(2 * KEYS * BLOCK, |narrow: &mut [K::Number]| {
                    for start in (0..queries.end).step_by(KEYS) {
                        let keys = start..(start + KEYS).min(queries.end);
                        let tile = Tile { kernel, of: self, keys, queries: queries.clone(), factors: &factors };
                        tile.backward(part, dq_transposed, wide, narrow);
                    }
                });
            });
        });
    }
}

/// Some keys and a block of queries.
struct Tile<'a, T, K: Kernel> {
    kernel: K,
    of: &'a Head<'a, T>,
    /// Positions in the sequence.
    keys: Range<usize>,
    queries: Range<usize>,
    factors: &'a Factors<'a, K::Number>,
}

impl<T: Factor + Operand<K::Number>, K: Kernel> Tile<'_, T, K> {
    fn backward(&self, part: &mut Part<T>, dq_transposed: &mut [f32], wide: &mut [f32], narrow: &mut [K::Number]) {
        let (inputs, n, kernel) = (self.of.inputs, self.keys.len(), self.kernel);
        let (d, kv_width) = (inputs.heads.head_dim, inputs.heads.kv_width());
        let kv_head = self.of.head / inputs.heads.group();
        // The queries that see a key: from the diagonal on. Both start at a multiple of KEYS, so this is a whole panel.
        let seen = self.keys.start.saturating_sub(self.queries.start)..self.queries.len();
        let depth = seen.len().next_multiple_of(WIDTH.max(K::DEPTH));
        // Up to the end of a panel.
        let whole = seen.start..seen.start + depth;
        let (scores, dp) = wide.split_at_mut(KEYS * BLOCK);
        let (p, ds) = narrow.split_at_mut(KEYS * BLOCK);

        let rows = self.of.rows.start + self.keys.start..self.of.rows.start + self.keys.end;
        let [k, v] = [inputs.k, inputs.v].map(|of| head(of, kv_width, rows.clone(), kv_head, d).left());
        T::with_rows(&[k, v], n, K::DEPTH, Threads::One, |rows| {
            let Factors { q_transposed, d_o_transposed, .. } = self.factors;
            let out = Out { values: &mut *scores, stride: BLOCK };
            q_transposed.multiply(kernel, &rows[0], n, 0, whole.clone(), out, Old::Overwrite);
            let out = Out { values: &mut *dp, stride: BLOCK };
            d_o_transposed.multiply(kernel, &rows[1], n, 0, whole.clone(), out, Old::Overwrite);
        });
        self.softmax_backward(seen.start, depth, [scores, dp], [p, ds]);

        let stride = d.next_multiple_of(WIDTH);
        let gradients = self.keys.start * stride..self.keys.end * stride;
        let old = if self.keys.start < self.queries.start { Old::Add } else { Old::Overwrite };
        // Rows of p and ds start with the first query that is seen, so that they start a cache line.
        for (left, right, to) in [(&*p, &self.factors.d_o, &mut part.dv), (&*ds, &self.factors.q, &mut part.dk)] {
            let left = Rows { data: left, stride: BLOCK, k: seen.len().next_multiple_of(K::DEPTH) };
            let out = Out { values: &mut to[gradients.clone()], stride };
            right.multiply(kernel, &left, n, seen.start, 0..d, out, old);
        }
        let ds = View { data: &*ds, rows: n, cols: seen.len(), stride: BLOCK }.plain();
        scratch::with(ds.packed_len::<K>(), |room: &mut [K::Number]| {
            let ds = ds.pack(kernel, room);
            let first = kv_head * d * inputs.tokens + rows.start;
            let k_transposed = Rows { data: &inputs.k_transposed[first..], stride: inputs.tokens, k: n };
            T::with_rows(&[k_transposed], d, K::DEPTH, Threads::One, |rows| {
                let old = if self.keys.start > 0 { Old::Add } else { Old::Overwrite };
                let out = Out { values: &mut dq_transposed[seen.start..], stride: BLOCK };
                ds.multiply(kernel, &rows[0], d, 0, 0..seen.len(), out, old);
            });
        });
    }

    /// Turns scores and gradients of probabilities, of the queries from `first` on of the block and `depth` columns, into
    /// probabilities, and the gradients of the unscaled scores.
    fn softmax_backward(&self, first: usize, depth: usize, wide: [&mut [f32]; 2], narrow: [&mut [K::Number]; 2]) {
        let Inputs { lse, delta, heads, .. } = *self.of.inputs;
        let (mut lses, mut deltas) = ([[0f32; LANES]; BLOCK / LANES], [[0f32; LANES]; BLOCK / LANES]);
        for (j, query) in (self.queries.start + first..self.queries.end).enumerate() {
            let at = (self.of.rows.start + query) * heads.n_heads + self.of.head;
            (lses[j / LANES][j % LANES], deltas[j / LANES][j % LANES]) = (lse[at], delta[at]);
        }
        let scale = heads.scale() as f32;
        let ([scores, dp], [p, ds]) =
            (wide.map(|w| w.chunks_exact_mut(BLOCK)), narrow.map(|n| n.chunks_exact_mut(BLOCK)));
        let rows = scores.zip(dp).zip(p.zip(ds)).take(self.keys.len()).zip(self.keys.clone());
        for (((scores, dp), (p, ds)), key) in rows {
            let (scores, dp) = (&mut scores[..depth], &mut dp[..depth]);
            // The key is hidden from the queries before it.
            let hidden = key.saturating_sub(self.queries.start + first).min(depth);
            vectorized(
                #[inline(always)]
                || {
                    // Loops of known length make whole vector instructions.
                    let chunks = scores.as_chunks_mut::<LANES>().0.iter_mut().zip(dp.as_chunks_mut::<LANES>().0);
                    for ((s, dp), (lse, delta)) in chunks.zip(lses.iter().zip(&deltas)) {
                        for i in 0..LANES {
                            let probability = exp_in_range(s[i].mul_add(scale, -lse[i]));
                            s[i] = probability;
                            dp[i] = probability * scale * (dp[i] - delta[i]);
                        }
                    }
                    scores[..hidden].fill(0.);
                    dp[..hidden].fill(0.);
                },
            );
            K::Number::put(scores, &mut p[..depth]);
            K::Number::put(dp, &mut ds[..depth]);
        }
    }
}
