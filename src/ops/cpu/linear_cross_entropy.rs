//! `ops::linear_cross_entropy` on the CPU, in f32 or in bf16 with f32 logits and sums; the mathematics stand there.
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

use crate::error::Result;
use crate::ops::cpu::element::{self, Element, rounded};
use crate::ops::cpu::exp::{exp, exp_in_range};
use crate::ops::cpu::product::{
    self, Factor, Into, Kernel, Old, Operand, Out, Right, Source, Term, Threads, WIDTH, WithKernel, product,
};
use crate::ops::cpu::simd::vectorized;
use crate::ops::cpu::{scratch, slice, unspecified};
use crate::ops::linear_cross_entropy::{IGNORE_INDEX, Output, Wants};
use candle_core::{DType, Tensor};
use half::bf16;
use rayon::prelude::*;

/// Rows of W at a time.
const PANEL: usize = 512;
/// Rows of h that a task takes at most; with a panel, 512 KB of logits.
const ROWS: usize = 256;

type Gradients = (Output, Option<Tensor>, Option<Tensor>);

/// The loss and the gradients for h and W, or `None` where this form does not apply.
pub(crate) fn forward(h: &Tensor, w: &Tensor, targets: &[u32], wants: Wants) -> Result<Option<Gradients>> {
    match h.dtype() {
        DType::BF16 => forward_as::<bf16>(h, w, targets, wants),
        _ => forward_as::<f32>(h, w, targets, wants),
    }
}

fn forward_as<T: Factor>(h: &Tensor, w: &Tensor, targets: &[u32], wants: Wants) -> Result<Option<Gradients>> {
    let (&[t, hidden], &[vocab, _]) = (h.dims(), w.dims()) else { return Ok(None) };
    let (Some(h), Some(w)) = (slice::of::<T>(h), slice::of::<T>(w)) else { return Ok(None) };
    let rows = Rows::of(targets);
    let (h, head) = (rows.gather(&h, hidden), Head { w: &w, hidden });
    let (output, dh, normalizers) =
        rows.map(&h, hidden, wants, |h, ids, normalizers, dh| T::with_kernel(Part { head, h, ids, normalizers, dh }));
    let dh = dh.map(|dh| rows.scatter::<T>(&dh, t, hidden)).transpose()?;
    let mut dw = None;
    if wants == Wants::HiddenAndHeadGradient {
        let values = head.weight_gradient(&h, &rows.ids, &normalizers, vocab);
        dw = Some(element::tensor(rounded::<T>(&values), (vocab, hidden))?);
    }
    Ok(Some((output, dh, dw)))
}

/// `h·Wᵀ` in f32, or `None` where this form does not apply.
pub(crate) fn logits(h: &Tensor, w: &Tensor) -> Result<Option<Tensor>> {
    match h.dtype() {
        DType::BF16 => logits_as::<bf16>(h, w),
        _ => logits_as::<f32>(h, w),
    }
}

fn logits_as<T: Factor>(h: &Tensor, w: &Tensor) -> Result<Option<Tensor>> {
    let (&[t, hidden], &[vocab, _]) = (h.dims(), w.dims()) else { return Ok(None) };
    let (Some(h), Some(w)) = (slice::of::<T>(h), slice::of::<T>(w)) else { return Ok(None) };
    let mut logits = unspecified::numbers::<f32>(t * vocab);
    let terms = [Term::transposed(&h, Source::dense(&w, vocab, hidden))];
    product(t, vocab, 1., &terms, Into::F32(&mut logits), Old::Overwrite, Threads::Pool);
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
        let mut all = vec![T::of(0.); t * hidden];
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

#[derive(Clone, Copy)]
struct Head<'a, T> {
    w: &'a [T],
    hidden: usize,
}

/// Some rows, for the calling thread: it returns their loss, and leaves their normalizers and gradients.
struct Part<'a, T> {
    head: Head<'a, T>,
    h: &'a [T],
    ids: &'a [usize],
    normalizers: &'a mut [Normalizer],
    dh: Option<&'a mut [f32]>,
}

impl<T: Factor> WithKernel<T> for Part<'_, T> {
    type Output = f64;

    fn run<K: Kernel>(self, kernel: K) -> f64
    where
        T: Operand<K::Number>,
    {
        let _ready = kernel.hold();
        let Self { head: Head { w, hidden }, h, ids, normalizers, dh } = self;
        let n = ids.len();
        let mut target_logits = vec![0f32; n];
        let wide_hidden = hidden.next_multiple_of(WIDTH);
        scratch::with(if dh.is_some() { n * wide_hidden } else { 0 }, |gradients: &mut [f32]| {
            let rows = [product::Rows { data: h, stride: hidden, k: hidden }];
            T::with_rows(&rows, n, K::DEPTH, Threads::One, |rows| {
                for (i, w) in w.chunks(PANEL * hidden).enumerate() {
                    let panel = Panel { kernel, w, hidden, ids, first: i * PANEL, wants_gradient: dh.is_some() };
                    panel.add(&rows[0], normalizers, &mut target_logits, gradients);
                }
            });
            let rows =
                dh.into_iter().flat_map(|dh| dh.chunks_exact_mut(hidden)).zip(gradients.chunks_exact(wide_hidden));
            for ((dh, gradient), (&id, normalizer)) in rows.zip(ids.iter().zip(&*normalizers)) {
                let (scale, w) = ((1. / normalizer.sum) as f32, &w[id * hidden..][..hidden]);
                dh.iter_mut().zip(gradient).zip(w).for_each(|((dh, d), w)| *dh = *d * scale - w.get());
            }
        });
        let losses = normalizers.iter().zip(target_logits);
        losses.map(|(normalizer, target)| normalizer.sum.ln() + (normalizer.max as f64 - target as f64)).sum()
    }
}

/// Some words of the vocabulary.
struct Panel<'a, T, K> {
    kernel: K,
    /// Their rows of the head.
    w: &'a [T],
    hidden: usize,
    /// The targets, and the word that is the first here.
    ids: &'a [usize],
    first: usize,
    wants_gradient: bool,
}

impl<T: Factor + Operand<K::Number>, K: Kernel> Panel<'_, T, K> {
    /// Adds these words to the normalizers and, under them, the gradients, in rows of whole panels, of the rows `h`.
    fn add(
        &self,
        h: &product::Rows<K::Number>,
        normalizers: &mut [Normalizer],
        target_logits: &mut [f32],
        gradients: &mut [f32],
    ) {
        let (n, words) = (self.ids.len(), self.w.len() / self.hidden);
        let w = Source::dense(self.w, words, self.hidden);
        let stride = words.next_multiple_of(WIDTH);
        scratch::with(n * stride, |logits: &mut [f32]| {
            let right = Right::Transposed(w);
            scratch::with(right.packed_len::<K>(), |room: &mut [K::Number]| {
                let out = Out { values: &mut *logits, stride };
                right.pack(self.kernel, room).multiply(self.kernel, h, n, 0, 0..words, out, Old::Overwrite);
            });
            for (row, id) in self.ids.iter().enumerate().filter(|(_, id)| (self.first..self.first + words).contains(id))
            {
                target_logits[row] = logits[row * stride + id - self.first];
            }
            let first = self.first == 0;
            scratch::with(n * stride, |e: &mut [K::Number]| {
                let rows = logits.chunks_exact_mut(stride).zip(e.chunks_exact_mut(stride)).zip(normalizers).enumerate();
                for (row, ((logits, e), normalizer)) in rows {
                    let factor = exponentials(&mut logits[..words], normalizer);
                    if self.wants_gradient {
                        logits[words..].fill(0.);
                        K::Number::put(logits, e);
                        if factor != 1. && !first {
                            let gradient = &mut gradients[row * self.hidden.next_multiple_of(WIDTH)..];
                            gradient[..self.hidden].iter_mut().for_each(|d| *d *= factor);
                        }
                    }
                }
                if self.wants_gradient {
                    let right = Right::Plain(w);
                    scratch::with(right.packed_len::<K>(), |room: &mut [K::Number]| {
                        let e = product::Rows { data: e, stride, k: words.next_multiple_of(K::DEPTH) };
                        let out = Out { values: gradients, stride: self.hidden.next_multiple_of(WIDTH) };
                        let old = if first { Old::Overwrite } else { Old::Add };
                        right.pack(self.kernel, room).multiply(self.kernel, &e, n, 0, 0..self.hidden, out, old);
                    });
                }
            });
        });
    }
}

impl<T: Factor> Head<'_, T> {
    /// `Σ_t (p_t - onehot_t)ᵀ·h_t`, [vocab, hidden], each panel by one task.
    fn weight_gradient(&self, h: &[T], ids: &[usize], normalizers: &[Normalizer], vocab: usize) -> Vec<f32> {
        let hidden = self.hidden;
        let mut dw = vec![0f32; vocab * hidden];
        let panels = dw.par_chunks_mut(PANEL * hidden).zip(self.w.par_chunks(PANEL * hidden)).enumerate();
        panels.for_each(|(i, (dw, w))| {
            let (first, width) = (i * PANEL, w.len() / hidden);
            for ((h, ids), normalizers) in h.chunks(ROWS * hidden).zip(ids.chunks(ROWS)).zip(normalizers.chunks(ROWS)) {
                let n = ids.len();
                scratch::with(width * n, |logits: &mut [f32]| {
                    // Transposed, so that probabilities are the left factor of the next product.
                    let terms = [Term::transposed(w, Source::dense(h, n, hidden))];
                    product(width, n, 1., &terms, Into::F32(logits), Old::Overwrite, Threads::One);
                    scratch::with(width * n, |p: &mut [T]| {
                        vectorized(
                            #[inline(always)]
                            || probabilities(logits, normalizers, p),
                        );
                        for (row, id) in ids.iter().enumerate().filter(|(_, id)| (first..first + width).contains(id)) {
                            let p = &mut p[(id - first) * n + row];
                            *p = T::of(p.get() - 1.);
                        }
                        let terms = [Term::plain(p, Source::dense(h, n, hidden))];
                        product(width, hidden, 1., &terms, Into::F32(dw), Old::Add, Threads::One);
                    });
                });
            }
        });
        dw
    }
}

/// Adjacent logits that are joined in one vector register.
const LANES: usize = 16;

/// Turns a row's next logits into `exp(l - max)` with its new maximum, and returns what sums under the old one are multiplied
/// by.
fn exponentials(logits: &mut [f32], normalizer: &mut Normalizer) -> f32 {
    vectorized(
        #[inline(always)]
        || {
            let (chunks, rest) = logits.as_chunks_mut::<LANES>();
            let mut maxima = [f32::NEG_INFINITY; LANES];
            for chunk in chunks.iter() {
                for i in 0..LANES {
                    maxima[i] = if chunk[i] > maxima[i] { chunk[i] } else { maxima[i] };
                }
            }
            let max = maxima.iter().chain(&*rest).fold(normalizer.max, |max, &l| if l > max { l } else { max });
            let factor = exp(normalizer.max - max);
            let mut sums = [0f32; LANES];
            for chunk in chunks {
                for i in 0..LANES {
                    chunk[i] = exp_in_range(chunk[i] - max);
                    sums[i] += chunk[i];
                }
            }
            let mut sum = sums.iter().sum::<f32>();
            for l in rest {
                *l = exp_in_range(*l - max);
                sum += *l;
            }
            *normalizer = Normalizer { max, sum: normalizer.sum * factor as f64 + sum as f64 };
            factor
        },
    )
}

/// The probabilities of the logits `[width, n]`.
#[inline(always)]
fn probabilities<T: Element>(logits: &[f32], normalizers: &[Normalizer], p: &mut [T]) {
    let n = normalizers.len();
    for (logits, p) in logits.chunks_exact(n).zip(p.chunks_exact_mut(n)) {
        for ((l, normalizer), p) in logits.iter().zip(normalizers).zip(p) {
            *p = T::of(exp(*l - normalizer.max) * (1. / normalizer.sum) as f32);
        }
    }
}
