//! One pass over the keys with a running maximum and sum per query, so that no score is needed twice.

use super::{TILE, View, blocks, head, max, multiply, sum, take};
use crate::error::Result;
use crate::ops::attention::{CachedSequence, Heads, Saved};
use crate::ops::cpu::element;
use crate::ops::cpu::exp::exp;
use crate::ops::cpu::product::{Factor, Old};
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
            q: &qs[rows.start * width..rows.end * width],
            k: &ks[keys.clone()],
            v: &vs[keys],
            first: rows.start - start,
            kv_heads: 0..heads.n_kv_heads,
            o: take(&mut o_rest, rows.len() * width),
            lse: Some(take(&mut lse_rest, rows.len() * n_heads)),
        });
    }
    run(tasks, heads);
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
    run(tasks, heads);
    Ok(Some(element::tensor(o, q.shape())?))
}

/// Enough tasks to share the work evenly, in blocks large enough for the products to be fast.
fn rows_per_task(tokens: usize) -> usize {
    let even = tokens.div_ceil(8 * rayon::current_num_threads());
    even.next_multiple_of(16).clamp(16, TILE)
}

/// Some consecutive queries of one sequence.
struct Task<'a, T> {
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

fn run<T: Factor>(tasks: Vec<Task<T>>, heads: &Heads) {
    tasks.into_par_iter().with_max_len(1).for_each(|task| task.run(heads));
}

impl<T: Factor> Task<'_, T> {
    fn run(mut self, heads: &Heads) {
        let _ready = T::hold();
        let (d, width, group) = (heads.head_dim, heads.q_width(), heads.group());
        let rows = self.q.len() / width;
        let most = rows.max(group);
        let mut room = Room { scores: vec![[0.; TILE]; most], p: vec![T::of(0.); most * TILE] };
        scratch::with(most * d, |o: &mut [f32]| {
            for kv_head in self.kv_heads.clone() {
                if rows == 1 {
                    // The heads of one row that share keys are the rows of a matrix, and see the same keys.
                    let q = View { data: &self.q[kv_head * group * d..], rows: group, cols: d, stride: d };
                    let queries = Queries { q, first: self.first, step: 0, kv_head };
                    let lse = queries.attend(self.k, self.v, heads, &mut room, &mut o[..group * d]);
                    let at = (kv_head - self.kv_heads.start) * group * d;
                    self.o[at..at + group * d].iter_mut().zip(&*o).for_each(|(to, o)| *to = T::of(*o));
                    if let Some(all) = &mut self.lse {
                        all[kv_head * group..][..group].copy_from_slice(&lse[..group]);
                    }
                    continue;
                }
                for h in kv_head * group..(kv_head + 1) * group {
                    let q = head(self.q, width, 0..rows, h, d);
                    let queries = Queries { q, first: self.first, step: 1, kv_head };
                    let lse = queries.attend(self.k, self.v, heads, &mut room, &mut o[..rows * d]);
                    for (to, o) in self.o.chunks_exact_mut(width).zip(o.chunks_exact(d)) {
                        to[h * d..(h + 1) * d].iter_mut().zip(o).for_each(|(to, o)| *to = T::of(*o));
                    }
                    if let Some(all) = &mut self.lse {
                        all.chunks_exact_mut(heads.n_heads).zip(lse).for_each(|(row, lse)| row[h] = lse);
                    }
                }
            }
        });
    }
}

/// A task's memory.
struct Room<T> {
    scores: Vec<[f32; TILE]>,
    /// The exponentials of the scores, `TILE` to a row.
    p: Vec<T>,
}

/// Queries that attend to one key head.
struct Queries<'a, T> {
    q: View<'a, T>,
    /// The position of the first query.
    first: usize,
    /// From one query's position to the next: 0 or 1.
    step: usize,
    kv_head: usize,
}

impl<T: Factor> Queries<'_, T> {
    /// Writes the output `[rows, d]` to `o` and returns the log-sum-exp of each query.
    fn attend(&self, k: &[T], v: &[T], heads: &Heads, room: &mut Room<T>, o: &mut [f32]) -> Vec<f32> {
        let (d, kv_width, rows) = (heads.head_dim, heads.kv_width(), self.q.rows);
        let (scores, p) = (&mut room.scores[..rows], &mut room.p[..rows * TILE]);
        let (mut maxima, mut sums) = (vec![f32::NEG_INFINITY; rows], vec![0f32; rows]);
        let end = self.first + self.step * (rows - 1) + 1;
        o.fill(0.);
        for start in (0..end).step_by(TILE) {
            let keys = start..(start + TILE).min(end);
            let n = keys.len();
            let k = head(k, kv_width, keys.clone(), self.kv_head, d);
            let tile = scores.as_flattened_mut();
            multiply(heads.scale() as f32, self.q, k.transposed(), tile, TILE, Old::Overwrite);
            vectorized(
                #[inline(always)]
                || {
                    let each = scores.iter_mut().zip(p.chunks_exact_mut(TILE)).zip(o.chunks_exact_mut(d));
                    for (i, ((row, p), o)) in each.enumerate() {
                        let visible = (self.first + self.step * i + 1).saturating_sub(start).min(n);
                        accumulate(row, visible, &mut maxima[i], &mut sums[i], o);
                        p.iter_mut().zip(&*row).for_each(|(p, e)| *p = T::of(*e));
                    }
                },
            );
            let p = View { data: p, rows, cols: n, stride: TILE };
            let v = head(v, kv_width, keys, self.kv_head, d);
            multiply(1., p, v.plain(), o, d, Old::Add);
        }
        for (o, sum) in o.chunks_exact_mut(d).zip(&sums) {
            o.iter_mut().for_each(|o| *o /= sum);
        }
        maxima.iter().zip(sums).map(|(max, sum)| max + sum.ln()).collect()
    }
}

/// Turns a row's first `visible` scores into exponentials and the others into 0; what was summed up under the old
/// maximum is scaled to the new.
#[inline(always)]
fn accumulate(row: &mut [f32; TILE], visible: usize, row_max: &mut f32, row_sum: &mut f32, o: &mut [f32]) {
    row[visible..].fill(f32::NEG_INFINITY);
    let here = max(row);
    let old = *row_max;
    let new = if here > old { here } else { old };
    for s in row.iter_mut() {
        *s = exp(*s - new);
    }
    let factor = if here > old { exp(old - new) } else { 1.0 };
    *row_max = new;
    *row_sum = *row_sum * factor + sum(row);
    if factor != 1.0 {
        for o in o {
            *o *= factor;
        }
    }
}
