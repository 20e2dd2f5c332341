//! `ops::qlora_linear` on the CPU in bf16 with f32 sums; the mathematics stand there.
//!
//! Everything is one kind of product (`ops::cpu::product`): W is decoded by panels inside it, and the low-rank branch is a
//! second term of it, unless a dropout mask stands between the two. Products over tokens, dA and dB, have few rows
//! (the rank), so dB is computed as its transpose.

use super::{Branch, LentWeight, tensor};
use crate::error::Result;
use crate::ops::cpu::element::{self, Element};
use crate::ops::cpu::gemm::{Old, Threads};
use crate::ops::cpu::product::{self, Into, Source, Term, Values, product, product_masked};
use crate::ops::cpu::scratch;
use crate::ops::cpu::slice;
use crate::ops::dropout::Dropout;
use crate::ops::qlora_linear::{Grads, LoraBranch, Needs};
use crate::ops::weight::Weight;
use candle_core::Tensor;
use half::bf16;
use rayon::prelude::*;

/// Elements that a task masks.
const MASKED: usize = 1 << 15;

/// `y` and `h`, or `None` where this form does not apply.
pub(super) fn forward(x: &Tensor, w: &Weight, lora: Option<&LoraBranch>) -> Result<Option<(Tensor, Option<Tensor>)>> {
    let (t, input, out) = (x.dims()[0], w.in_features(), w.out_features());
    let (Some(x), Some(w), true) = (slice::of::<bf16>(x), LentWeight::of(w), product::is_fast()) else {
        return Ok(None);
    };
    let Some(branch) = Branch::of_any(lora) else { return Ok(None) };
    let mut y = bf16::zeros(t * out);
    w.with(out, input, |w| -> Result<_> {
        let through_w = Term::transposed(&x, w);
        let Some(branch) = &branch else {
            product(t, out, 1., &[through_w], Into::Bf16(&mut y), Old::Overwrite, Threads::Pool);
            return Ok(None);
        };
        let rank = branch.rank;
        let (a, b) = (rounded(&branch.a), rounded(&branch.b));
        let mut h = vec![0f32; t * rank];
        masked(branch.dropout, &x, |x| {
            let term = Term::transposed(x, Source::new(Values::Bf16(&a), rank, input));
            product(t, rank, branch.keep_scale(), &[term], Into::F32(&mut h), Old::Overwrite, Threads::Pool);
        });
        let scaled = h.iter().map(|h| bf16::of(branch.scale * h)).collect::<Vec<_>>();
        let terms = [through_w, Term::transposed(&scaled, Source::new(Values::Bf16(&b), out, rank))];
        product(t, out, 1., &terms, Into::Bf16(&mut y), Old::Overwrite, Threads::Pool);
        Ok(Some(tensor(h, t, rank)?))
    })
    .and_then(|h| Ok(Some((element::tensor(y, (t, out))?, h))))
}

/// The gradients, or `None` where this form does not apply.
pub(super) fn backward(
    x: &Tensor,
    w: &Weight,
    lora: Option<&LoraBranch>,
    h: Option<&Tensor>,
    dy: &Tensor,
    needs: Needs,
) -> Result<Option<Grads>> {
    let (t, input, out) = (x.dims()[0], w.in_features(), w.out_features());
    let (Some(x), Some(dy), Some(w)) = (slice::of::<bf16>(x), slice::of::<bf16>(dy), LentWeight::of(w)) else {
        return Ok(None);
    };
    let Some(low_rank) = Branch::with_h(lora, h) else { return Ok(None) };
    if needs.dw || !product::is_fast() {
        return Ok(None);
    }
    let mut grads = Grads::default();
    w.with(out, input, |w| -> Result<()> {
        let mut dx = if needs.dx { Some(bf16::zeros(t * input)) } else { None };
        let through_w = Term::plain(&dy, w);
        if let Some((branch, h)) = &low_rank {
            let (rank, dropout) = (branch.rank, branch.dropout);
            let (a, b) = (rounded(&branch.a), rounded(&branch.b));
            let dy_right = Source::new(Values::Bf16(&dy), t, out);
            let mut db = vec![0f32; rank * out];
            let h = transposed::<bf16>(h, t, rank);
            let term = Term::plain(&h, dy_right);
            product(rank, out, branch.scale, &[term], Into::F32(&mut db), Old::Overwrite, Threads::Pool);
            grads.db = Some(tensor(transposed(&db, rank, out), out, rank)?);

            let mut g = vec![0f32; t * rank];
            let term = Term::plain(&dy, Source::new(Values::Bf16(&b), out, rank));
            let scale = branch.scale * branch.keep_scale();
            product(t, rank, scale, &[term], Into::F32(&mut g), Old::Overwrite, Threads::Pool);
            let mut da = vec![0f32; rank * input];
            let g_left = transposed::<bf16>(&g, t, rank);
            masked(dropout, &x, |x| {
                let term = Term::plain(&g_left, Source::new(Values::Bf16(x), t, input));
                product(rank, input, 1., &[term], Into::F32(&mut da), Old::Overwrite, Threads::Pool);
            });
            grads.da = Some(tensor(da, rank, input)?);

            if let Some(dx) = &mut dx {
                let g = rounded(&g);
                let through_a = Term::plain(&g, Source::new(Values::Bf16(&a), rank, input));
                let terms = [through_w, through_a];
                match dropout {
                    Some(mask) => product_masked(t, input, terms, mask, Into::Bf16(dx)),
                    None => product(t, input, 1., &terms, Into::Bf16(dx), Old::Overwrite, Threads::Pool),
                }
            }
        } else if let Some(dx) = &mut dx {
            product(t, input, 1., &[through_w], Into::Bf16(dx), Old::Overwrite, Threads::Pool);
        }
        grads.dx = dx.map(|dx| element::tensor(dx, (t, input))).transpose()?;
        Ok(())
    })?;
    Ok(Some(grads))
}

fn rounded(values: &[f32]) -> Vec<bf16> {
    values.iter().map(|&v| bf16::of(v)).collect()
}

/// The transpose of a `[rows, cols]` matrix.
fn transposed<T: Element>(values: &[f32], rows: usize, cols: usize) -> Vec<T> {
    let mut out = vec![T::of(0.); rows * cols];
    for (row, values) in values.chunks_exact(cols).enumerate() {
        out[row..].iter_mut().step_by(rows).zip(values).for_each(|(out, v)| *out = T::of(*v));
    }
    out
}

/// Calls `body` with `m ∘ x`.
fn masked<R>(dropout: Option<Dropout>, x: &[bf16], body: impl FnOnce(&[bf16]) -> R) -> R {
    let Some(dropout) = dropout else { return body(x) };
    scratch::with(x.len(), |masked: &mut [bf16]| {
        let chunks = masked.par_chunks_mut(MASKED).zip(x.par_chunks(MASKED)).enumerate();
        chunks.for_each(|(i, (to, from))| dropout.zero((i * MASKED) as u64, from, to));
        body(masked)
    })
}

impl LentWeight<'_, bf16> {
    fn with<R>(&self, out: usize, input: usize, body: impl FnOnce(Source) -> R) -> R {
        match self {
            Self::Dense(w) => body(Source::new(Values::Bf16(w), out, input)),
            Self::Quantized(lent) => body(Source::new(Values::Blocks(&lent.blocks()), out, input)),
        }
    }
}
