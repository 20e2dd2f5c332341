//! `ops::linear_cross_entropy` on the CPU, here in f32, in `bf16` for that type; the mathematics stand there.
//!
//! The rows are shared out among the threads. Each task goes over the vocabulary in panels and keeps, for each of its
//! rows, the largest logit so far, the sum of the exponentials below it, and the same sum weighted with W's rows, which
//! becomes the gradient:
//!
//! ```text
//! m' = max(m, max of the panel)      z' = z·e^(m-m') + Σ_v e^(l_v-m')      d' = d·e^(m-m') + Σ_v e^(l_v-m')·W_v
//! ```
//!
//! A panel of W is read from memory once and used twice while it is in the cache, and no more logits exist than a
//! panel's. The head's gradient needs final probabilities, so it goes over the panels a second time.

mod bf16;

use crate::error::Result;
use crate::ops::cpu::element::{self, Element};
use crate::ops::cpu::exp::exp;
use crate::ops::cpu::gemm::{Mat, MatMut, Old, Threads, gemm};
use crate::ops::cpu::simd::vectorized;
use crate::ops::cpu::{product, scratch, slice};
use crate::ops::linear_cross_entropy::{IGNORE_INDEX, Output, Wants};
use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

/// Rows of W at a time.
const PANEL: usize = 512;
/// Rows of h that a task takes at most; with a panel, 512 KB of logits.
const ROWS: usize = 256;

type Gradients = (Output, Option<Tensor>, Option<Tensor>);

/// The loss and the gradients for h and W, or `None` where this form does not apply.
pub(crate) fn forward(h: &Tensor, w: &Tensor, targets: &[u32], wants: Wants) -> Result<Option<Gradients>> {
    let (&[t, hidden], &[vocab, _]) = (h.dims(), w.dims()) else { return Ok(None) };
    let rows = Rows::of(targets);
    if h.dtype() == DType::BF16 {
        let (Some(h), Some(w)) = (slice::of::<half::bf16>(h), slice::of::<half::bf16>(w)) else { return Ok(None) };
        if wants == Wants::HiddenAndHeadGradient || !product::is_fast() {
            return Ok(None);
        }
        let (h, head) = (rows.gather(&h, hidden), bf16::Head { w: &w, hidden });
        let (output, dh, _) = rows.map(&h, hidden, wants, |h, ids, normalizers, dh| head.rows(h, ids, normalizers, dh));
        let dh = dh.map(|dh| rows.scatter::<half::bf16>(&dh, t, hidden)).transpose()?;
        return Ok(Some((output, dh, None)));
    }
    let (Some(h), Some(w)) = (slice::of::<f32>(h), slice::of::<f32>(w)) else { return Ok(None) };
    let (h, head) = (rows.gather(&h, hidden), Head { w: &w, hidden });
    let (output, dh, normalizers) =
        rows.map(&h, hidden, wants, |h, ids, normalizers, dh| head.rows(h, ids, normalizers, dh));
    let dh = dh.map(|dh| rows.scatter::<f32>(&dh, t, hidden)).transpose()?;
    let mut dw = None;
    if wants == Wants::HiddenAndHeadGradient {
        let values = head.weight_gradient(&h, &rows.ids, &normalizers, vocab);
        dw = Some(Tensor::from_vec(values, (vocab, hidden), &Device::Cpu)?);
    }
    Ok(Some((output, dh, dw)))
}

/// `h·Wᵀ` in f32, or `None` unless both are bf16 and this form applies; candle's own product is as fast in f32.
pub(crate) fn logits(h: &Tensor, w: &Tensor) -> Result<Option<Tensor>> {
    let (&[t, hidden], &[vocab, _]) = (h.dims(), w.dims()) else { return Ok(None) };
    let (Some(h), Some(w), true) = (slice::of::<half::bf16>(h), slice::of::<half::bf16>(w), product::is_fast()) else {
        return Ok(None);
    };
    let mut logits = f32::zeros(t * vocab);
    let terms = [product::Term::transposed(&h, product::Source::new(product::Values::Bf16(&w), vocab, hidden))];
    product::product(t, vocab, 1., &terms, product::Into::F32(&mut logits), Old::Overwrite, Threads::Pool);
    Ok(Some(element::tensor(logits, (t, vocab))?))
}

/// The rows that have a target.
struct Rows {
    trained: Vec<usize>,
    ids: Vec<usize>,
}

impl Rows {
    fn of(targets: &[u32]) -> Self {
        let trained = (0..targets.len()).filter(|&t| targets[t] != IGNORE_INDEX).collect::<Vec<_>>();
        let ids = trained.iter().map(|&t| targets[t] as usize).collect();
        Self { trained, ids }
    }

    /// These rows of `h`.
    fn gather<T: Element>(&self, h: &[T], hidden: usize) -> Vec<T> {
        self.trained.iter().flat_map(|&t| &h[t * hidden..][..hidden]).copied().collect()
    }

    /// Calls `body` with the rows `h`, their targets, normalizers and gradients, a part to each task, and adds up the losses.
    fn map<T: Element>(
        &self,
        h: &[T],
        hidden: usize,
        wants: Wants,
        body: impl Fn(&[T], &[usize], &mut [Normalizer], Option<&mut [f32]>) -> f64 + Sync,
    ) -> (Output, Option<Vec<f32>>, Vec<Normalizer>) {
        // Every thread gets the same number of tasks, all of about the same number of rows.
        let (ids, threads) = (&self.ids, rayon::current_num_threads());
        let rounds = ids.len().div_ceil(threads * ROWS).max(1);
        let rows = ids.len().div_ceil(threads * rounds).max(1);
        let mut normalizers = vec![Normalizer::default(); ids.len()];
        let mut dh = (wants != Wants::Loss).then(|| vec![0f32; h.len()]);
        let mut dhs: Vec<Option<&mut [f32]>> = match &mut dh {
            Some(dh) => dh.chunks_mut(rows * hidden).map(Some).collect(),
            None => (0..ids.len().div_ceil(rows)).map(|_| None).collect(),
        };
        let tasks = h.par_chunks(rows * hidden).zip(ids.par_chunks(rows)).zip(normalizers.par_chunks_mut(rows));
        let tasks = tasks.zip(dhs.par_iter_mut());
        let losses: Vec<f64> =
            tasks.map(|(((h, ids), normalizers), dh)| body(h, ids, normalizers, dh.take())).collect();
        drop(dhs);
        (Output { loss_sum: losses.iter().sum(), count: ids.len() }, dh, normalizers)
    }

    /// The gradients of all `t` rows: `dh`, and zeros where there is no target.
    fn scatter<T: Element>(&self, dh: &[f32], t: usize, hidden: usize) -> Result<Tensor> {
        let mut all = T::zeros(t * hidden);
        for (&t, dh) in self.trained.iter().zip(dh.chunks_exact(hidden)) {
            all[t * hidden..][..hidden].iter_mut().zip(dh).for_each(|(to, d)| *to = T::of(*d));
        }
        Ok(element::tensor(all, (t, hidden))?)
    }
}

/// What turns a row's logits into probabilities: `exp(l - max) / sum`.
#[derive(Clone, Copy)]
struct Normalizer {
    max: f32,
    sum: f64,
}

impl Default for Normalizer {
    fn default() -> Self {
        Self { max: f32::NEG_INFINITY, sum: 0. }
    }
}

struct Head<'a> {
    w: &'a [f32],
    hidden: usize,
}

impl Head<'_> {
    /// The loss of rows `h` with targets `ids`, on the calling thread; leaves their normalizers and gradients, which
    /// start as zeros.
    fn rows(&self, h: &[f32], ids: &[usize], normalizers: &mut [Normalizer], mut dh: Option<&mut [f32]>) -> f64 {
        let (n, hidden) = (ids.len(), self.hidden);
        let h = Mat::new(h, n, hidden);
        let mut target_logits = vec![0f32; n];
        let (mut max, mut factor, mut sum) = (vec![f32::NEG_INFINITY; n], vec![0f32; n], vec![0f32; n]);
        scratch::with(n * PANEL, |logits| {
            for (i, w) in self.w.chunks(PANEL * hidden).enumerate() {
                let (first, width) = (i * PANEL, w.len() / hidden);
                let w = Mat::new(w, width, hidden);
                let logits = &mut logits[..width * n];
                gemm(1., w, h.t(), MatMut::new(logits, width, n), Old::Overwrite, Threads::One);
                for (row, id) in ids.iter().enumerate().filter(|(_, id)| (first..first + width).contains(id)) {
                    target_logits[row] = logits[(id - first) * n + row];
                }
                vectorized(
                    #[inline(always)]
                    || exponentials(logits, &mut max, &mut factor, &mut sum),
                );
                for (row, normalizer) in normalizers.iter_mut().enumerate() {
                    normalizer.sum = normalizer.sum * factor[row] as f64 + sum[row] as f64;
                }
                if let Some(dh) = &mut dh {
                    for (dh, &factor) in dh.chunks_exact_mut(hidden).zip(&factor).filter(|(_, f)| **f != 1.) {
                        dh.iter_mut().for_each(|d| *d *= factor);
                    }
                    let e = Mat::new(logits, width, n).t();
                    gemm(1., e, w, MatMut::new(dh, n, hidden), Old::Add, Threads::One);
                }
            }
        });
        let mut loss = 0.;
        for (row, normalizer) in normalizers.iter_mut().enumerate() {
            normalizer.max = max[row];
            loss += normalizer.sum.ln() + (max[row] as f64 - target_logits[row] as f64);
        }
        for ((dh, &id), normalizer) in
            dh.into_iter().flat_map(|dh| dh.chunks_exact_mut(hidden)).zip(ids).zip(&*normalizers)
        {
            let (scale, w) = ((1. / normalizer.sum) as f32, &self.w[id * hidden..][..hidden]);
            dh.iter_mut().zip(w).for_each(|(d, w)| *d = *d * scale - w);
        }
        loss
    }

    /// `Σ_t (p_t - onehot_t)ᵀ·h_t`, [vocab, hidden], each panel by one task.
    fn weight_gradient(&self, h: &[f32], ids: &[usize], normalizers: &[Normalizer], vocab: usize) -> Vec<f32> {
        let hidden = self.hidden;
        let mut dw = vec![0f32; vocab * hidden];
        let panels = dw.par_chunks_mut(PANEL * hidden).zip(self.w.par_chunks(PANEL * hidden)).enumerate();
        panels.for_each(|(i, (dw, w))| {
            let (first, width) = (i * PANEL, w.len() / hidden);
            scratch::with(width * ROWS.min(ids.len()), |p| {
                for ((h, ids), normalizers) in
                    h.chunks(ROWS * hidden).zip(ids.chunks(ROWS)).zip(normalizers.chunks(ROWS))
                {
                    let n = ids.len();
                    let (h, p) = (Mat::new(h, n, hidden), &mut p[..width * n]);
                    let w = Mat::new(w, width, hidden);
                    gemm(1., w, h.t(), MatMut::new(p, width, n), Old::Overwrite, Threads::One);
                    vectorized(
                        #[inline(always)]
                        || probabilities(p, normalizers),
                    );
                    for (row, id) in ids.iter().enumerate().filter(|(_, id)| (first..first + width).contains(id)) {
                        p[(id - first) * n + row] -= 1.;
                    }
                    let p = Mat::new(p, width, n);
                    gemm(1., p, h, MatMut::new(dw, width, hidden), Old::Add, Threads::One);
                }
            });
        });
        dw
    }
}

/// Takes the logits `[width, n]` of a panel to `exp(l - max)`, with `max` the new maximum of each of the n rows;
/// `factor` is what sums under the old maximum are multiplied by, `sum` the panel's.
#[inline(always)]
fn exponentials(logits: &mut [f32], max: &mut [f32], factor: &mut [f32], sum: &mut [f32]) {
    let n = max.len();
    factor.copy_from_slice(max);
    for logits in logits.chunks_exact(n) {
        for i in 0..n {
            max[i] = if logits[i] > max[i] { logits[i] } else { max[i] };
        }
    }
    for i in 0..n {
        factor[i] = exp(factor[i] - max[i]);
        sum[i] = 0.;
    }
    for logits in logits.chunks_exact_mut(n) {
        for i in 0..n {
            let e = exp(logits[i] - max[i]);
            logits[i] = e;
            sum[i] += e;
        }
    }
}

/// Takes logits `[width, n]` to probabilities.
#[inline(always)]
fn probabilities(logits: &mut [f32], normalizers: &[Normalizer]) {
    for logits in logits.chunks_exact_mut(normalizers.len()) {
        for (l, normalizer) in logits.iter_mut().zip(normalizers) {
            *l = exp(*l - normalizer.max) * (1. / normalizer.sum) as f32;
        }
    }
}
