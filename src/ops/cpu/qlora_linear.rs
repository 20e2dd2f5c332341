//! `ops::qlora_linear` on the CPU, in f32 or in bf16 with f32 sums; the mathematics stand there.
//!
//! Everything is one kind of product (`ops::cpu::product`): W is decoded by panels inside it, and the low-rank branch is a
//! second term of it, unless a dropout mask stands between the two. Products over tokens, dA and dB, have few rows
//! (the rank), so dB is computed as its transpose.

use crate::error::Result;
use crate::ops::cpu::decode::Lent;
use crate::ops::cpu::element::{self, Element, rounded};
use crate::ops::cpu::product::{Factor, Into, Old, Source, Term, Threads, Values, product, product_masked};
use crate::ops::cpu::slice::{self, Slice};
use crate::ops::cpu::{scratch, transpose, unspecified};
use crate::ops::dropout::Dropout;
use crate::ops::qlora_linear::{Grads, LoraBranch, Needs};
use crate::ops::weight::Weight;
use candle_core::{DType, Tensor};
use half::bf16;
use rayon::prelude::*;

/// Elements that a task masks.
const MASKED: usize = 1 << 15;

/// `y` and `h`, or `None` where this form does not apply.
pub(crate) fn forward(
    x: &Tensor,
    w: &Weight,
    bias: Option<&Tensor>,
    lora: Option<&LoraBranch>,
) -> Result<Option<(Tensor, Option<Tensor>)>> {
    match x.dtype() {
        DType::BF16 => forward_as::<bf16>(x, w, bias, lora),
        _ => forward_as::<f32>(x, w, bias, lora),
    }
}

fn forward_as<T: Factor>(
    x: &Tensor,
    w: &Weight,
    bias: Option<&Tensor>,
    lora: Option<&LoraBranch>,
) -> Result<Option<(Tensor, Option<Tensor>)>> {
    let (t, input, out) = (x.dims()[0], w.in_features(), w.out_features());
    let (Some(x), Some(w), Some(branch)) = (slice::of::<T>(x), LentWeight::of(w), Branch::of_any(lora)) else {
        return Ok(None);
    };
    let mut y = unspecified::numbers::<T>(t * out);
    let mut old = Old::Overwrite;
    if let Some(bias) = bias {
        let Some(bias) = slice::of::<T>(bias) else { return Ok(None) };
        y.chunks_exact_mut(out.max(1)).for_each(|y| y.copy_from_slice(&bias));
        old = Old::Add;
    }
    w.with(out, input, |w| -> Result<_> {
        let through_w = Term::transposed(&x, w);
        let Some(branch) = &branch else {
            product(t, out, 1., &[through_w], T::into(&mut y), old, Threads::Pool);
            return Ok(None);
        };
        let (h, b, rank) = (branch.h(&x, [t, input]), rounded::<T>(&branch.b), branch.rank);
        let scaled = h.iter().map(|h| T::of(branch.scale * h)).collect::<Vec<_>>();
        let terms = [through_w, Term::transposed(&scaled, Source::dense(&b, out, rank))];
        product(t, out, 1., &terms, T::into(&mut y), old, Threads::Pool);
        Ok(Some(element::tensor(h, (t, rank))?))
    })
    .and_then(|h| Ok(Some((element::tensor(y, (t, out))?, h))))
}

/// `h` alone, or `None` where this form does not apply.
pub(crate) fn h(x: &Tensor, lora: &LoraBranch) -> Result<Option<Tensor>> {
    match x.dtype() {
        DType::BF16 => h_as::<bf16>(x, lora),
        _ => h_as::<f32>(x, lora),
    }
}

fn h_as<T: Factor>(x: &Tensor, lora: &LoraBranch) -> Result<Option<Tensor>> {
    let &[t, input] = x.dims() else { return Ok(None) };
    let (Some(x), Some(branch)) = (slice::of::<T>(x), Branch::of(lora)) else { return Ok(None) };
    Ok(Some(element::tensor(branch.h(&x, [t, input]), (t, branch.rank))?))
}

/// The gradients, or `None` where this form does not apply.
pub(crate) fn backward(
    x: &Tensor,
    w: &Weight,
    lora: Option<&LoraBranch>,
    h: Option<&Tensor>,
    dy: &Tensor,
    needs: Needs,
) -> Result<Option<Grads>> {
    match x.dtype() {
        DType::BF16 => backward_as::<bf16>(x, w, lora, h, dy, needs),
        _ => backward_as::<f32>(x, w, lora, h, dy, needs),
    }
}

fn backward_as<T: Factor>(
    x: &Tensor,
    w: &Weight,
    lora: Option<&LoraBranch>,
    h: Option<&Tensor>,
    dy: &Tensor,
    needs: Needs,
) -> Result<Option<Grads>> {
    let (t, input, out) = (x.dims()[0], w.in_features(), w.out_features());
    let (Some(x), Some(dy), Some(lent)) = (slice::of::<T>(x), slice::of::<T>(dy), LentWeight::of(w)) else {
        return Ok(None);
    };
    let Some(low_rank) = Branch::with_h(lora, h) else { return Ok(None) };
    let mut grads = Grads::default();
    if needs.dw {
        let mut dw = unspecified::numbers::<T>(out * input);
        let dy_left = transpose::of::<T, T>(&dy, t, out);
        let term = Term::plain(&dy_left, Source::dense(&x, t, input));
        product(out, input, 1., &[term], T::into(&mut dw), Old::Overwrite, Threads::Pool);
        grads.dw = Some(element::tensor(dw, (out, input))?);
    }
    let through_branch = low_rank.map(|(branch, h)| branch.backward(&x, &h, &dy, [t, input, out], &mut grads));
    let through_branch = through_branch.transpose()?;
    if needs.dx {
        let mut dx = unspecified::numbers::<T>(t * input);
        lent.with(out, input, |w| {
            let through_w = Term::plain(&dy, w);
            let Some(Downward { g, a, rank, dropout }) = &through_branch else {
                product(t, input, 1., &[through_w], T::into(&mut dx), Old::Overwrite, Threads::Pool);
                return;
            };
            let terms = [through_w, Term::plain(g, Source::dense(a, *rank, input))];
            match dropout {
                Some(mask) => product_masked(t, input, terms, *mask, T::into(&mut dx)),
                None => product(t, input, 1., &terms, T::into(&mut dx), Old::Overwrite, Threads::Pool),
            }
        });
        grads.dx = Some(element::tensor(dx, (t, input))?);
    }
    Ok(Some(grads))
}

/// The low-rank branch's memory.
struct Branch<'a> {
    a: Slice<'a, f32>,
    b: Slice<'a, f32>,
    rank: usize,
    scale: f32,
    dropout: Option<Dropout>,
}

/// What the input's gradient through the branch is made of: `m ∘ (g·A)`.
struct Downward<T> {
    /// `[T, r]`, with the factor 1 / (1 - p).
    g: Vec<T>,
    /// `[r, in]`
    a: Vec<T>,
    rank: usize,
    dropout: Option<Dropout>,
}

impl<'a> Branch<'a> {
    fn of(lora: &LoraBranch<'a>) -> Option<Self> {
        Some(Self {
            a: slice::of(lora.a)?,
            b: slice::of(lora.b)?,
            rank: lora.a.dims()[0],
            scale: lora.scale as f32,
            dropout: lora.active_dropout(),
        })
    }

    /// The branch, if there is one; `None` where its memory cannot be lent.
    fn of_any(lora: Option<&LoraBranch<'a>>) -> Option<Option<Self>> {
        lora.map_or(Some(None), |lora| Self::of(lora).map(Some))
    }

    /// The same with the forward's h; `None` also where one of the two is missing.
    fn with_h<'h>(lora: Option<&LoraBranch<'a>>, h: Option<&'h Tensor>) -> Option<Option<(Self, Slice<'h, f32>)>> {
        match (lora, h) {
            (None, None) => Some(None),
            (Some(lora), Some(h)) => Some(Some((Self::of(lora)?, slice::of(h)?))),
            _ => None,
        }
    }

    fn keep_scale(&self) -> f32 {
        self.dropout.map_or(1., |d| d.scale() as f32)
    }

    /// `h = (m ∘ x)·Aᵀ / (1 - p)`; `shape` is T, in.
    fn h<T: Factor>(&self, x: &[T], [t, input]: [usize; 2]) -> Vec<f32> {
        let a = rounded::<T>(&self.a);
        let mut h = vec![0f32; t * self.rank];
        masked(self.dropout, x, |x| {
            let term = Term::transposed(x, Source::dense(&a, self.rank, input));
            product(t, self.rank, self.keep_scale(), &[term], Into::F32(&mut h), Old::Overwrite, Threads::Pool);
        });
        h
    }

    /// Leaves dA and dB in `grads`; `shape` is T, in, out.
    fn backward<T: Factor>(
        &self,
        x: &[T],
        h: &[f32],
        dy: &[T],
        [t, input, out]: [usize; 3],
        grads: &mut Grads,
    ) -> Result<Downward<T>> {
        let rank = self.rank;
        let (a, b) = (rounded::<T>(&self.a), rounded::<T>(&self.b));
        let mut db = vec![0f32; rank * out];
        let h_left = transpose::of::<f32, T>(h, t, rank);
        let term = Term::plain(&h_left, Source::dense(dy, t, out));
        product(rank, out, self.scale, &[term], Into::F32(&mut db), Old::Overwrite, Threads::Pool);
        grads.db = Some(element::tensor(transpose::of::<f32, f32>(&db, rank, out), (out, rank))?);

        let mut g = vec![0f32; t * rank];
        let term = Term::plain(dy, Source::dense(&b, out, rank));
        let scale = self.scale * self.keep_scale();
        product(t, rank, scale, &[term], Into::F32(&mut g), Old::Overwrite, Threads::Pool);
        let mut da = vec![0f32; rank * input];
        let g_left = transpose::of::<f32, T>(&g, t, rank);
        masked(self.dropout, x, |x| {
            let term = Term::plain(&g_left, Source::dense(x, t, input));
            product(rank, input, 1., &[term], Into::F32(&mut da), Old::Overwrite, Threads::Pool);
        });
        grads.da = Some(element::tensor(da, (rank, input))?);
        Ok(Downward { g: rounded(&g), a, rank, dropout: self.dropout })
    }
}

/// Calls `body` with `m ∘ x`.
fn masked<T: Element, R>(dropout: Option<Dropout>, x: &[T], body: impl FnOnce(&[T]) -> R) -> R {
    let Some(dropout) = dropout else { return body(x) };
    scratch::with(x.len(), |masked: &mut [T]| {
        let chunks = masked.par_chunks_mut(MASKED).zip(x.par_chunks(MASKED)).enumerate();
        chunks.for_each(|(i, (to, from))| dropout.zero((i * MASKED) as u64, from, to));
        body(masked)
    })
}

/// The weight's memory, locked for reading; T is the type of a dense one.
enum LentWeight<'a, T> {
    Dense(Slice<'a, T>),
    Quantized(Lent<'a>),
}

impl<'a, T: Factor> LentWeight<'a, T> {
    fn of(w: &'a Weight) -> Option<Self> {
        match w {
            Weight::Dense(w) => Some(Self::Dense(slice::of(w)?)),
            Weight::Quantized(w) => Some(Self::Quantized(w.lend()?)),
        }
    }

    /// Calls `body` with W `[out, input]`.
    fn with<R>(&self, out: usize, input: usize, body: impl FnOnce(Source<T>) -> R) -> R {
        match self {
            Self::Dense(w) => body(Source::dense(w, out, input)),
            Self::Quantized(lent) => body(Source::new(Values::Blocks(&lent.blocks()), out, input)),
        }
    }
}
