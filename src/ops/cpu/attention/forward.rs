//! One pass over the keys with a running maximum and sum per query, so that no score is needed twice.

use super::{TILE, Tile, blocks, head, max, sum, take};
use crate::error::Result;
use crate::ops::attention::{CachedSequence, Heads, Saved};
use crate::ops::cpu::exp::exp;
use crate::ops::cpu::gemm::{Mat, MatMut, Old, Threads, gemm};
use crate::ops::cpu::simd::vectorized;
use crate::ops::cpu::slice;
use candle_core::Tensor;
use rayon::prelude::*;
use std::ops::Range;

/// `None` unless the tensors are on the CPU, f32 and contiguous.
pub(crate) fn forward(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    cu_seqlens: &[usize],
    heads: &Heads,
) -> Result<Option<(Tensor, Saved)>> {
    let [Some(qs), Some(ks), Some(vs)] = [q, k, v].map(slice::of::<f32>) else { return Ok(None) };
    let (qs, ks, vs) = (&*qs, &*ks, &*vs);
    let (tokens, width, n_heads) = (q.dim(0)?, heads.q_width(), heads.n_heads);
    let mut o = vec![0f32; tokens * width];
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
    Ok(Some((Tensor::from_vec(o, q.shape(), q.device())?, saved)))
}

/// `None` unless the tensors are on the CPU, f32 and contiguous.
pub(crate) fn cached(q: &Tensor, sequences: &[CachedSequence], heads: &Heads) -> Result<Option<Tensor>> {
    let Some(qs) = slice::of::<f32>(q) else { return Ok(None) };
    let caches = sequences.iter().map(|s| Some((slice::of::<f32>(s.k)?, slice::of::<f32>(s.v)?)));
    let Some(caches) = caches.collect::<Option<Vec<_>>>() else { return Ok(None) };
    let (width, kv_width) = (heads.q_width(), heads.kv_width());
    let group_width = width / heads.n_kv_heads;
    let size = rows_per_task(q.dim(0)?);
    let mut o = vec![0f32; qs.len()];
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
    Ok(Some(Tensor::from_vec(o, q.shape(), q.device())?))
}

/// Enough tasks to share the work evenly, in blocks large enough for the products to be fast.
fn rows_per_task(tokens: usize) -> usize {
    let even = tokens.div_ceil(8 * rayon::current_num_threads());
    even.next_multiple_of(16).clamp(16, TILE)
}

/// Some consecutive queries of one sequence.
struct Task<'a> {
    /// Whole rows.
    q: &'a [f32],
    /// The sequence's keys up to that of the last query, whole rows.
    k: &'a [f32],
    v: &'a [f32],
    /// The position of the first query in the sequence.
    first: usize,
    /// The part of the heads that this task computes; all unless there is only one query.
    kv_heads: Range<usize>,
    /// Where the first of these heads' output starts.
    o: &'a mut [f32],
    lse: Option<&'a mut [f32]>,
}

fn run(tasks: Vec<Task>, heads: &Heads) {
    tasks.into_par_iter().with_max_len(1).for_each(|task| task.run(heads));
}

impl Task<'_> {
    fn run(mut self, heads: &Heads) {
        let (d, width, group) = (heads.head_dim, heads.q_width(), heads.group());
        let rows = self.q.len() / width;
        let mut tile = vec![[0f32; TILE]; rows.max(group)];
        for kv_head in self.kv_heads.clone() {
            if rows == 1 {
                // The heads of one row that share keys are the rows of a matrix, and see the same keys.
                let column = kv_head * group * d;
                let q = Mat::new(&self.q[column..column + group * d], group, d);
                let at = (kv_head - self.kv_heads.start) * group * d;
                let queries = Queries { q, rows: group, stride: d, first: self.first, step: 0, kv_head };
                let lse = queries.attend(self.k, self.v, heads, &mut tile, &mut self.o[at..at + group * d]);
                if let Some(all) = &mut self.lse {
                    all[kv_head * group..][..group].copy_from_slice(&lse[..group]);
                }
                continue;
            }
            for h in kv_head * group..(kv_head + 1) * group {
                let q = head(self.q, width, 0..rows, h, d);
                let queries = Queries { q, rows, stride: width, first: self.first, step: 1, kv_head };
                let lse = queries.attend(self.k, self.v, heads, &mut tile, &mut self.o[h * d..]);
                if let Some(all) = &mut self.lse {
                    all.chunks_exact_mut(heads.n_heads).zip(lse).for_each(|(row, lse)| row[h] = lse);
                }
            }
        }
    }
}

/// Queries that attend to one key head.
struct Queries<'a> {
    q: Mat<'a>,
    rows: usize,
    /// From one query's output to the next.
    stride: usize,
    /// The position of the first query.
    first: usize,
    /// From one query's position to the next: 0 or 1.
    step: usize,
    kv_head: usize,
}

impl Queries<'_> {
    /// Adds the output to `o`, which is zero before, and returns the log-sum-exp of each query.
    fn attend(&self, k: &[f32], v: &[f32], heads: &Heads, tile: &mut Tile, o: &mut [f32]) -> Vec<f32> {
        let (d, kv_width) = (heads.head_dim, heads.kv_width());
        let tile = &mut tile[..self.rows];
        let (mut maxima, mut sums) = (vec![f32::NEG_INFINITY; self.rows], vec![0f32; self.rows]);
        let end = self.first + self.step * (self.rows - 1) + 1;
        for start in (0..end).step_by(TILE) {
            let keys = start..(start + TILE).min(end);
            let n = keys.len();
            let k = head(k, kv_width, keys.clone(), self.kv_head, d);
            let v = head(v, kv_width, keys, self.kv_head, d);
            let scores = MatMut::columns(tile.as_flattened_mut(), self.rows, n, TILE);
            gemm(heads.scale() as f32, self.q, k.t(), scores, Old::Overwrite, Threads::One);
            vectorized(
                #[inline(always)]
                || {
                    for (i, row) in tile.iter_mut().enumerate() {
                        let visible = (self.first + self.step * i + 1).saturating_sub(start).min(n);
                        let o = &mut o[i * self.stride..][..d];
                        accumulate(row, visible, &mut maxima[i], &mut sums[i], o);
                    }
                },
            );
            let p = Mat::new(tile.as_flattened(), self.rows, TILE).columns(0..n);
            gemm(1., p, v, MatMut::columns(o, self.rows, d, self.stride), Old::Add, Threads::One);
        }
        for (i, sum) in sums.iter().enumerate() {
            o[i * self.stride..][..d].iter_mut().for_each(|o| *o /= sum);
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
