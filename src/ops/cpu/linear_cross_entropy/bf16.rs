//! The same in bf16 with f32 logits and sums.
//!
//! Logits lie row by row here: the head's panel is the right factor of both products, and the exponentials, rounded,
//! are the left factor of the second.

use super::{Normalizer, PANEL};
use crate::ops::cpu::element::Element;
use crate::ops::cpu::exp::exp;
use crate::ops::cpu::gemm::{Old, Threads};
use crate::ops::cpu::product::{Into, Source, Term, Values, product};
use crate::ops::cpu::scratch;
use crate::ops::cpu::simd::vectorized;
use half::bf16;

/// Adjacent logits that are joined in one vector register.
const LANES: usize = 16;

pub(super) struct Head<'a> {
    pub(super) w: &'a [bf16],
    pub(super) hidden: usize,
}

impl Head<'_> {
    /// The loss of rows `h` with targets `ids`, on the calling thread; leaves their normalizers and gradients, which
    /// start as zeros.
    pub(super) fn rows(
        &self,
        h: &[bf16],
        ids: &[usize],
        normalizers: &mut [Normalizer],
        mut dh: Option<&mut [f32]>,
    ) -> f64 {
        let (n, hidden) = (ids.len(), self.hidden);
        let mut target_logits = vec![0f32; n];
        scratch::with(n * PANEL, |logits: &mut [f32]| {
            for (i, w) in self.w.chunks(PANEL * hidden).enumerate() {
                let (first, width) = (i * PANEL, w.len() / hidden);
                let panel = Source::new(Values::Bf16(w), width, hidden);
                let logits = &mut logits[..n * width];
                let terms = [Term::transposed(h, panel)];
                product(n, width, 1., &terms, Into::F32(logits), Old::Overwrite, Threads::One);
                for (row, id) in ids.iter().enumerate().filter(|(_, id)| (first..first + width).contains(id)) {
                    target_logits[row] = logits[row * width + id - first];
                }
                scratch::with(n * width, |e: &mut [bf16]| {
                    let rows = logits.chunks_exact(width).zip(e.chunks_exact_mut(width)).zip(&mut *normalizers);
                    for (row, ((logits, e), normalizer)) in rows.enumerate() {
                        let factor = exponentials(logits, e, normalizer);
                        if let Some(dh) = dh.as_mut().filter(|_| factor != 1.) {
                            dh[row * hidden..][..hidden].iter_mut().for_each(|d| *d *= factor);
                        }
                    }
                    if let Some(dh) = &mut dh {
                        product(n, hidden, 1., &[Term::plain(e, panel)], Into::F32(dh), Old::Add, Threads::One);
                    }
                });
            }
        });
        let mut loss = 0.;
        for (normalizer, target) in normalizers.iter().zip(target_logits) {
            loss += normalizer.sum.ln() + (normalizer.max as f64 - target as f64);
        }
        let rows = dh.into_iter().flat_map(|dh| dh.chunks_exact_mut(hidden)).zip(ids).zip(&*normalizers);
        for ((dh, &id), normalizer) in rows {
            let (scale, w) = ((1. / normalizer.sum) as f32, &self.w[id * hidden..][..hidden]);
            dh.iter_mut().zip(w).for_each(|(d, w)| *d = *d * scale - w.get());
        }
        loss
    }
}

/// Writes `exp(l - max)` with the row's new maximum to `e`, and returns what sums under the old one are multiplied by.
fn exponentials(logits: &[f32], e: &mut [bf16], normalizer: &mut Normalizer) -> f32 {
    vectorized(
        #[inline(always)]
        || {
            let (chunks, rest) = logits.as_chunks::<LANES>();
            let mut maxima = [f32::NEG_INFINITY; LANES];
            for chunk in chunks {
                for i in 0..LANES {
                    maxima[i] = if chunk[i] > maxima[i] { chunk[i] } else { maxima[i] };
                }
            }
            let max = maxima.iter().chain(rest).fold(normalizer.max, |max, &l| if l > max { l } else { max });
            let factor = exp(normalizer.max - max);
            let mut sums = [0f32; LANES];
            let (e_chunks, e_rest) = e.as_chunks_mut::<LANES>();
            for (e, chunk) in e_chunks.iter_mut().zip(chunks) {
                for i in 0..LANES {
                    let value = exp(chunk[i] - max);
                    sums[i] += value;
                    e[i] = bf16::of(value);
                }
            }
            let mut sum = sums.iter().sum::<f32>();
            for (e, l) in e_rest.iter_mut().zip(rest) {
                let value = exp(l - max);
                sum += value;
                *e = bf16::of(value);
            }
            *normalizer = Normalizer { max, sum: normalizer.sum * factor as f64 + sum as f64 };
            factor
        },
    )
}
