//! One pass over the keys, a block of them at a time, with a running maximum and sum per query, so that no score is needed
//! twice. The query heads that share keys are the rows of one left factor.

use super::{BLOCK, LANES, blocks, head, max, sum, take};
use crate::error::Result;
use crate::ops::attention::{CachedSequence, Heads, Saved};
use crate::ops::cpu::element::{self, Element};
use crate::ops::cpu::exp::exp_in_range;
use crate::ops::cpu::product::{
    FEW_ROWS, Factor, Into, Kernel, Old, Operand, Out, Panels, Right, Rows, Term, Threads, WIDTH, WithKernel,
    product_strided,
};
use crate::ops::cpu::simd::vectorized;
use crate::ops::cpu::{scratch, slice, unspecified};
use candle_core::{DType, Tensor};
use half::bf16;
use rayon::prelude::*;
use std::ops::Range;

/// `None` unless the tensors are on the CPU, all f32 or all bf16, and contiguous.
pub(crate) fn forward(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    cu_seqlens: &[usize],
    heads: &Heads,
) -> Result<Option<(Tensor, Saved)>> {
    match q.dtype() {
        DType::BF16 => forward_as::<bf16>(q, k, v, cu_seqlens, heads),
        _ => forward_as::<f32>(q, k, v, cu_seqlens, heads),
    }
}

fn forward_as<T: Factor>(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    cu_seqlens: &[usize],
    heads: &Heads,
) -> Result<Option<(Tensor, Saved)>> {
    let [Some(qs), Some(ks), Some(vs)] = [q, k, v].map(slice::of::<T>) else { return Ok(None) };
    let (qs, ks, vs) = (&*qs, &*ks, &*vs);
    let (tokens, width, n_heads) = (q.dim(0)?, heads.q_width(), heads.n_heads);
    let mut o = unspecified::numbers::<T>(tokens * width);
    let mut lse = vec![0f32; tokens * n_heads];

    let (mut o_rest, mut lse_rest) = (&mut o[..], &mut lse[..]);
    let mut tasks = Vec::new();
    for (sequence, rows) in blocks(cu_seqlens, rows_per_task(tokens)) {
        let start = cu_seqlens[sequence];
        let keys = start * heads.kv_width()..rows.end * heads.kv_width();
        tasks.push(Task {
            heads,
            q: &qs[rows.start * width..rows.end * width],
            k: &ks[keys.clone()],
            v: &vs[keys],
            first: rows.start - start,
            kv_heads: 0..heads.n_kv_heads,
            o: take(&mut o_rest, rows.len() * width),
            lse: Some(take(&mut lse_rest, rows.len() * n_heads)),
        });
    }
    run(tasks);
    let saved = Saved { lse: Tensor::from_vec(lse, (tokens, n_heads), q.device())? };
    Ok(Some((element::tensor(o, q.shape())?, saved)))
}

/// `None` unless the tensors are on the CPU, all f32 or all bf16, and contiguous.
pub(crate) fn cached(q: &Tensor, sequences: &[CachedSequence], heads: &Heads) -> Result<Option<Tensor>> {
    match q.dtype() {
        DType::BF16 => cached_as::<bf16>(q, sequences, heads),
        _ => cached_as::<f32>(q, sequences, heads),
    }
}

fn cached_as<T: Factor>(q: &Tensor, sequences: &[CachedSequence], heads: &Heads) -> Result<Option<Tensor>> {
    let Some(qs) = slice::of::<T>(q) else { return Ok(None) };
    let caches = sequences.iter().map(|s| Some((slice::of::<T>(s.k)?, slice::of::<T>(s.v)?)));
    let Some(caches) = caches.collect::<Option<Vec<_>>>() else { return Ok(None) };
    let (width, kv_width) = (heads.q_width(), heads.kv_width());
    let group_width = width / heads.n_kv_heads;
    let size = rows_per_task(q.dim(0)?);
    let mut o = unspecified::numbers::<T>(qs.len());
    let mut o_rest = &mut o[..];
    let mut tasks = Vec::new();
    for (sequence, (k, v)) in sequences.iter().zip(&caches) {
        let earlier = sequence.len - sequence.rows.len();
        for (_, rows) in blocks(&[0, sequence.rows.len()], size) {
            let q_rows = sequence.rows.start + rows.start..sequence.rows.start + rows.end;
            let used = 0..(earlier + rows.end) * kv_width;
            // The output of one row can be divided among the heads, that of several cannot.
            let split = if rows.len() == 1 { heads.n_kv_heads } else { 1 };
            let q = &qs[q_rows.start * width..q_rows.end * width];
            for part in 0..split {
                let kv_heads = if split > 1 { part..part + 1 } else { 0..heads.n_kv_heads };
                tasks.push(Task {
                    heads,
                    q,
                    k: &k[used.clone()],
                    v: &v[used.clone()],
                    first: earlier + rows.start,
                    o: take(&mut o_rest, if split > 1 { group_width } else { rows.len() * width }),
                    kv_heads,
                    lse: None,
                });
            }
        }
    }
    run(tasks);
    Ok(Some(element::tensor(o, q.shape())?))
}

/// Queries of a task at most.
const QUERIES: usize = 64;

/// Enough tasks to share the work evenly, in blocks large enough for the products to be fast.
fn rows_per_task(tokens: usize) -> usize {
    let even = tokens.div_ceil(8 * rayon::current_num_threads());
    even.next_multiple_of(16).clamp(16, QUERIES)
}

/// Some consecutive queries of one sequence.
struct Task<'a, T> {
    heads: &'a Heads,
    /// Whole rows.
    q: &'a [T],
    /// The sequence's keys up to that of the last query, whole rows.
    k: &'a [T],
    v: &'a [T],
    /// The position of the first query in the sequence.
    first: usize,
    /// The part of the heads that this task computes; all unless there is only one query.
    kv_heads: Range<usize>,
    /// Where the first of these heads' output starts.
    o: &'a mut [T],
    lse: Option<&'a mut [f32]>,
}

fn run<T: Factor>(tasks: Vec<Task<T>>) {
    tasks.into_par_iter().with_max_len(1).for_each(|task| T::with_kernel(task));
}

impl<T: Factor> WithKernel<T> for Task<'_, T> {
    type Output = ();

    fn run<K: Kernel>(self, kernel: K)
    where
        T: Operand<K::Number>,
    {
        let _ready = kernel.hold();
        let Self { heads, q, k, v, first, kv_heads, o, mut lse } = self;
        let (d, width, group) = (heads.head_dim, heads.q_width(), heads.group());
        let count = q.len() / width * group;
        // The heads of a row that share keys lie side by side: in `q`, and in `o` if it has all of them.
        let (group_width, o_width, first_head) = (group * d, kv_heads.len() * group * d, kv_heads.start);
        scratch::with(count * d, |queries: &mut [T]| {
            scratch::with(count * d.next_multiple_of(WIDTH), |sums: &mut [f32]| {
                for kv_head in kv_heads {
                    for (to, row) in queries.chunks_exact_mut(group_width).zip(q.chunks_exact(width)) {
                        to.copy_from_slice(&row[kv_head * group_width..][..group_width]);
                    }
                    let rows = [Rows { data: &*queries, stride: d, k: d }];
                    let block = T::with_rows(&rows, count, K::DEPTH, Threads::One, |rows| {
                        Queries { kernel, q: queries, rows: rows[0], count, first, kv_head, heads }.attend(k, v, sums)
                    });
                    let at = (kv_head - first_head) * group_width;
                    let heads_o =
                        o.chunks_exact_mut(o_width).flat_map(|row| row[at..][..group_width].chunks_exact_mut(d));
                    for (to, sums) in heads_o.zip(sums.chunks_exact(d.next_multiple_of(WIDTH))) {
                        T::put(&sums[..d], to);
                    }
                    if let Some(lse) = &mut lse {
                        for (to, block) in lse.chunks_exact_mut(heads.n_heads).zip(block.chunks_exact(group)) {
                            to[kv_head * group..][..group].copy_from_slice(block);
                        }
                    }
                }
            });
        });
    }
}

/// Queries that attend to one key head: those of its group's first row, then those of the next.
struct Queries<'a, T, K: Kernel> {
    kernel: K,
    /// `[count, d]`
    q: &'a [T],
    /// The same as the kernel wants it.
    rows: Rows<'a, K::Number>,
    count: usize,
    /// The position of the first.
    first: usize,
    kv_head: usize,
    heads: &'a Heads,
}

impl<T: Factor + Operand<K::Number>, K: Kernel> Queries<'_, T, K> {
    /// Writes the output, `count` rows of d and up to whole panels, to `o` and returns the log-sum-exp of each query.
    fn attend(&self, k: &[T], v: &[T], o: &mut [f32]) -> Vec<f32> {
        let (count, d, kv_width) = (self.count, self.heads.head_dim, self.heads.kv_width());
        let mut state = State { maxima: vec![f32::NEG_INFINITY; count], sums: vec![0f32; count] };
        let end = self.first + (count - 1) / self.heads.group() + 1;
        let o_width = d.next_multiple_of(WIDTH);
        // So few that their scores and probabilities stay in the first-level cache.
        let strip = 24usize.next_multiple_of(K::HEIGHT);
        for start in (0..end).step_by(BLOCK) {
            let keys = start..(start + BLOCK).min(end);
            let [k, v] = [k, v].map(|of| head(of, kv_width, keys.clone(), self.kv_head, d));
            let (k, v) = (k.transposed(), v.plain());
            let pack_k = count > FEW_ROWS;
            let k_len = if pack_k { k.packed_len::<K>() } else { 0 };
            scratch::with(k_len + v.packed_len::<K>(), |mut room: &mut [K::Number]| {
                let mut pack = |right: Right<T>| right.pack(self.kernel, take(&mut room, right.packed_len::<K>()));
                let packed_k = pack_k.then(|| pack(k));
                let block = Keys { positions: keys, k, packed_k, v: pack(v) };
                for rows in (0..count).step_by(strip).map(|row| row..(row + strip).min(count)) {
                    self.add(&block, rows.clone(), &mut state, &mut o[rows.start * o_width..rows.end * o_width]);
                }
            });
        }
        vectorized(
            #[inline(always)]
            || {
                for (o, sum) in o.chunks_exact_mut(o_width).zip(&state.sums) {
                    let factor = 1. / sum;
                    o.iter_mut().for_each(|o| *o *= factor);
                }
            },
        );
        state.maxima.iter().zip(state.sums).map(|(max, sum)| max + sum.ln()).collect()
    }

    /// Adds what `rows` take from a block of keys to their output and state.
    fn add(&self, keys: &Keys<T, K::Number>, rows: Range<usize>, state: &mut State, o: &mut [f32]) {
        let (group, d, scale) = (self.heads.group(), self.heads.head_dim, self.heads.scale() as f32);
        let Range { start, end } = keys.positions;
        let visible = |row: usize| (self.first + row / group + 1).saturating_sub(start).min(end - start);
        let (n, seen) = (rows.len(), visible(rows.end - 1));
        if seen == 0 {
            return;
        }
        let (depth, o_width) = (seen.next_multiple_of(K::DEPTH), d.next_multiple_of(WIDTH));
        scratch::with(n * BLOCK, |scores: &mut [f32]| {
            self.scores(keys, rows.clone(), seen, scores);
            vectorized(
                #[inline(always)]
                || {
                    let each = scores.chunks_exact_mut(BLOCK).zip(o.chunks_exact_mut(o_width)).zip(rows.clone());
                    for ((scores, o), row) in each {
                        let factor = state.exponentials(row, scale, scores, visible(row));
                        scores[visible(row)..depth].fill(0.);
                        if start > 0 && factor != 1. {
                            o.iter_mut().for_each(|o| *o *= factor);
                        }
                    }
                },
            );
            scratch::with(n * BLOCK, |p: &mut [K::Number]| {
                for (p, scores) in p.chunks_exact_mut(BLOCK).zip(scores.chunks_exact(BLOCK)) {
                    K::Number::put(&scores[..depth], &mut p[..depth]);
                }
                let old = if start > 0 { Old::Add } else { Old::Overwrite };
                let p = Rows { data: &*p, stride: BLOCK, k: depth };
                keys.v.multiply(self.kernel, &p, n, 0, 0..d, Out { values: o, stride: o_width }, old);
            });
        });
    }

    /// The unscaled scores of `rows` for the first `seen` keys, in rows of BLOCK.
    fn scores(&self, keys: &Keys<T, K::Number>, rows: Range<usize>, seen: usize, scores: &mut [f32]) {
        let (d, n) = (self.heads.head_dim, rows.len());
        match keys.packed_k {
            Some(k) => {
                let out = Out { values: scores, stride: BLOCK };
                k.multiply(self.kernel, &self.rows.from(rows.start), n, 0, 0..seen, out, Old::Overwrite);
            }
            // Few queries are one strip, whose last one sees all keys of the block.
            None => {
                let term = Term { a: &self.q[rows.start * d..], stride: d, b: keys.k };
                let into = Into::F32(scores);
                product_strided([n, seen, BLOCK], 1., &[term], into, Old::Overwrite, Threads::One);
            }
        }
    }
}

/// A block of keys, and their values.
struct Keys<'a, T, N> {
    /// In the sequence.
    positions: Range<usize>,
    k: Right<'a, T>,
    /// The same in panels, but for few queries.
    packed_k: Option<Panels<'a, N>>,
    v: Panels<'a, N>,
}

/// What a query knows of the keys so far.
struct State {
    /// The greatest of its scaled scores.
    maxima: Vec<f32>,
    /// The sum of `exp(score - maximum)`.
    sums: Vec<f32>,
}

impl State {
    /// Turns query `i`'s next scores, the first `count` of `row`, into exponentials, and returns what was summed up under the
    /// old maximum is multiplied by. What follows them, up to whole [`LANES`], is written over.
    #[inline(always)]
    fn exponentials(&mut self, i: usize, scale: f32, row: &mut [f32], count: usize) -> f32 {
        let (row, _) = row[..count.next_multiple_of(LANES)].as_chunks_mut::<LANES>();
        row.as_flattened_mut()[count..].fill(f32::NEG_INFINITY);
        let (old, here) = (self.maxima[i], max(row) * scale);
        let new = if here > old { here } else { old };
        // A loop of known length makes whole vector instructions, and leaves no element for slower ones.
        row.iter_mut().for_each(|row| row.iter_mut().for_each(|s| *s = exp_in_range(s.mul_add(scale, -new))));
        row.as_flattened_mut()[count..].fill(0.);
        let factor = if here > old { exp_in_range(old - new) } else { 1.0 };
        self.maxima[i] = new;
        self.sums[i] = self.sums[i] * factor + sum(row);
        factor
    }
}
