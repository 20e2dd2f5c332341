//! `ops::qlora_linear` on the CPU, in f32 or in bf16 with f32 sums; the mathematics stand there.
//!
//! Everything is one kind of product (`ops::cpu::product`): W is decoded by panels inside it, and the low-rank branch, made
//! ready in `branch`, is a second term of it, unless a dropout mask stands between the two.

mod branch;

use crate::error::Result;
use crate::ops::cpu::decode::Lent;
use crate::ops::cpu::element;
use crate::ops::cpu::product::{Factor, Old, Source, Term, Threads, Values, product, product_masked};
use crate::ops::cpu::slice::{self, Slice};
use crate::ops::cpu::{transpose, unspecified};
use crate::ops::qlora_linear::{Grads, LoraBranch, Needs};
use crate::ops::weight::Weight;
use branch::{Branch, Gradients};
use candle_core::{DType, Tensor};
use half::bf16;

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
        let ((h, scaled), b) = rayon::join(|| branch.h(&x, [t, input]), || branch.b::<T>(out));
        let terms = [through_w, Term::transposed(&scaled, Source::dense(&b, out, branch.wide_rank::<T>()))];
        product(t, out, 1., &terms, T::into(&mut y), old, Threads::Pool);
        Ok(Some(element::tensor(h, (t, branch.rank))?))
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
    Ok(Some(element::tensor(branch.h(&x, [t, input]).0, (t, branch.rank))?))
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
    let through_branch = low_rank.map(|(branch, h)| {
        let gradients = || branch.backward(&x, &h, &dy, [t, input, out]);
        let (Gradients { da, db, g }, a) = rayon::join(gradients, || branch.a::<T>(input));
        grads.da = Some(element::tensor(da, (branch.rank, input))?);
        grads.db = Some(element::tensor(db, (out, branch.rank))?);
        Ok::<_, crate::Error>((branch, g, a))
    });
    let through_branch = through_branch.transpose()?;
    if needs.dx {
        let mut dx = unspecified::numbers::<T>(t * input);
        lent.with(out, input, |w| {
            let through_w = Term::plain(&dy, w);
            let Some((branch, g, a)) = &through_branch else {
                product(t, input, 1., &[through_w], T::into(&mut dx), Old::Overwrite, Threads::Pool);
                return;
            };
            let terms = [through_w, Term::plain(g, Source::dense(a, branch.wide_rank::<T>(), input))];
            match branch.dropout {
                Some(mask) => product_masked(t, input, terms, mask, T::into(&mut dx)),
                None => product(t, input, 1., &terms, T::into(&mut dx), Old::Overwrite, Threads::Pool),
            }
        });
        grads.dx = Some(element::tensor(dx, (t, input))?);
    }
    Ok(Some(grads))
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
