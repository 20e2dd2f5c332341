//! A linear layer under DoRA: the low-rank branch turns the rows of the weight, and a trained magnitude gives each its length.
//!
//! With s the branch's scale, ‖·‖ the norm of each row of a matrix `[out, in]`, m the magnitudes, ∘ a product with each output,
//! and D the dropout:
//!
//! ```text
//! c  = m / ‖W + s·B·A‖                               [out]; the norm counts as a constant in the backward (the paper's § 4.3)
//! z  = D(x)·Wᵀ + s·D(x)·Aᵀ·Bᵀ
//! y  = c ∘ z + (x - D(x))·Wᵀ                         the last term is zero without dropout
//!
//! dm = Σ over tokens of dy ∘ z / ‖W + s·B·A‖
//! dA, dB, and the gradient of D(x): those of z's for c ∘ dy
//! dx = D'(gradient of D(x) - dy·W) + dy·W
//! ```
//!
//! The norm needs no W + s·B·A in memory:
//!
//! ```text
//! ‖w_j + s·b_j·A‖² = ‖w_j‖² + 2s·b_j·(A·w_j) + s²·b_j·(A·Aᵀ)·b_jᵀ
//! ```
//!
//! Source: Liu et al., arXiv:2402.09353; PEFT `src/peft/tuners/lora/dora.py`, which applies dropout as here.

use super::qlora_linear::{self, Grads, LoraBranch, Needs};
use super::weight::Weight;
use crate::{Error, Result};
use candle_core::{DType, Tensor};

/// The trained lengths of a layer's rows.
#[derive(Clone, Copy, Debug)]
pub struct Magnitude<'a> {
    /// m, `[out]` f32.
    pub m: &'a Tensor,
    /// ‖W‖², `[out]` f32: see [`row_norms_squared`].
    pub weight_norms_squared: &'a Tensor,
}

/// What the backward needs besides the inputs.
#[derive(Clone, Debug, Default)]
pub struct Saved(qlora_linear::Saved);

/// ‖w_j‖² of every row of a weight: `[out]` f32.
///
/// Errors: candle's.
pub fn row_norms_squared(w: &Weight) -> Result<Tensor> {
    Ok(w.dequantize(DType::F32)?.sqr()?.sum(1)?)
}

/// ‖w_j + s·b_j·A‖ of every row: `[out]` f32.
///
/// Errors: as [`forward`].
pub fn row_norms(w: &Weight, lora: &LoraBranch, weight_norms_squared: &Tensor) -> Result<Tensor> {
    let (a, b) = (lora.a.detach(), lora.b.detach());
    let (products, _) = qlora_linear::forward(&a, w, None, None)?;
    let cross = (products.t()? * &b)?.sum(1)?;
    let own = (b.matmul(&a.matmul(&a.t()?)?)? * &b)?.sum(1)?;
    let squared = (weight_norms_squared + ((cross * (2.0 * lora.scale))? + (own * lora.scale.powi(2))?)?)?;
    Ok(squared.sqrt()?)
}

/// Computes `y`.
///
/// - `x` `[T, in]` f32 or bf16
/// - `w` `[out, in]`
/// - returns `y` `[T, out]`, type of `x`
///
/// Errors: those of [`qlora_linear::forward`]; [`Error::Shape`] for magnitudes of another layer.
///
/// ```
/// # use ferrotune::candle_core::{Device, Tensor};
/// # use ferrotune::ops::{dora::{self, Magnitude}, qlora_linear::LoraBranch, weight::Weight};
/// let w = Weight::Dense(Tensor::new(&[[3f32, 4.], [0., 1.]], &Device::Cpu)?);
/// let (a, b) = (Tensor::new(&[[1f32, 1.]], &Device::Cpu)?, Tensor::new(&[[0f32], [0.]], &Device::Cpu)?);
/// let lora = LoraBranch { a: &a, b: &b, scale: 1., dropout: None };
/// // Rows of length 5 and 1 become rows of length 10 and 1.
/// let (m, squared) = (Tensor::new(&[10f32, 1.], &Device::Cpu)?, dora::row_norms_squared(&w)?);
/// let magnitude = Magnitude { m: &m, weight_norms_squared: &squared };
/// let (y, _) = dora::forward(&Tensor::new(&[[1f32, 2.]], &Device::Cpu)?, &w, &lora, &magnitude)?;
/// assert_eq!(y.to_vec2::<f32>()?, [[22., 2.]]);
/// # Ok::<(), ferrotune::Error>(())
/// ```
pub fn forward(x: &Tensor, w: &Weight, lora: &LoraBranch, magnitude: &Magnitude) -> Result<(Tensor, Saved)> {
    check(w, magnitude)?;
    let (factor, _) = factor(w, lora, magnitude)?;
    let kept = dropped(x, lora)?;
    let branch = LoraBranch { dropout: None, ..*lora };
    let (z, saved) = qlora_linear::forward(kept.as_ref().unwrap_or(x), w, None, Some(&branch))?;
    let mut y = by_output(&z, &factor)?;
    if let Some(kept) = kept {
        y = (y + qlora_linear::forward(&(x.detach() - kept)?, w, None, None)?.0)?;
    }
    Ok((y, Saved(saved)))
}

/// What [`forward`] saves, without its output.
///
/// Errors: as [`forward`].
pub fn saved(x: &Tensor, w: &Weight, lora: &LoraBranch) -> Result<Saved> {
    let kept = dropped(x, lora)?;
    let branch = LoraBranch { dropout: None, ..*lora };
    Ok(Saved(qlora_linear::saved(kept.as_ref().unwrap_or(x), w, Some(&branch))?))
}

/// The gradients of [`forward`] for `dy` `[T, out]`, and that of m, `[out]` f32. z is computed again.
///
/// `x`, `w`, `lora` and `magnitude` must be the forward's.
/// Errors: those of [`qlora_linear::backward`]; W has no gradient here.
pub fn backward(
    x: &Tensor,
    w: &Weight,
    lora: &LoraBranch,
    magnitude: &Magnitude,
    saved: &Saved,
    dy: &Tensor,
    needs: Needs,
) -> Result<(Grads, Tensor)> {
    check(w, magnitude)?;
    if needs.dw {
        return Err(Error::Shape { op: "dora", what: "the weight beside a low-rank branch has no gradient".into() });
    }
    let (factor, norms) = factor(w, lora, magnitude)?;
    let kept = dropped(x, lora)?;
    let branch = LoraBranch { dropout: None, ..*lora };
    let into = kept.as_ref().unwrap_or(x);
    let (z, _) = qlora_linear::forward(into, w, None, Some(&branch))?;
    let dm = ((wide(dy)? * wide(&z)?)?.sum(0)? / norms)?;
    drop(z);
    let mut grads = qlora_linear::backward(into, w, Some(&branch), &saved.0, &by_output(dy, &factor)?, needs)?;
    if let (Some(d_kept), Some(dropout)) = (&grads.dx, lora.active_dropout()) {
        let needs = Needs { dx: true, dw: false };
        let through = qlora_linear::backward(x, w, None, &Default::default(), dy, needs)?.dx;
        let through = through.ok_or_else(|| Error::Shape { op: "dora", what: "a gradient was left out".into() })?;
        let mask = dropout.mask(x.shape(), x.dtype(), x.device())?;
        let difference = (((d_kept - &through)? * mask)? * dropout.scale())?;
        grads.dx = Some((difference + through)?);
    }
    Ok((grads, dm))
}

/// c and ‖W + s·B·A‖.
fn factor(w: &Weight, lora: &LoraBranch, magnitude: &Magnitude) -> Result<(Tensor, Tensor)> {
    let norms = row_norms(w, lora, magnitude.weight_norms_squared)?;
    Ok(((magnitude.m.detach() / &norms)?, norms))
}

/// D(x); `None` where nothing is dropped.
fn dropped(x: &Tensor, lora: &LoraBranch) -> Result<Option<Tensor>> {
    let Some(dropout) = lora.active_dropout() else { return Ok(None) };
    let mask = dropout.mask(x.shape(), x.dtype(), x.device())?;
    Ok(Some(((x.detach() * mask)? * dropout.scale())?))
}

/// `t` `[T, out]` with each output multiplied by its factor, in f32 and rounded once: in bf16 a factor near 1 would be lost.
fn by_output(t: &Tensor, factor: &Tensor) -> Result<Tensor> {
    Ok(wide(t)?.broadcast_mul(factor)?.to_dtype(t.dtype())?)
}

fn wide(t: &Tensor) -> Result<Tensor> {
    Ok(t.detach().to_dtype(DType::F32)?)
}

fn check(w: &Weight, magnitude: &Magnitude) -> Result<()> {
    let out = w.out_features();
    for (name, t) in [("m", magnitude.m), ("the norms", magnitude.weight_norms_squared)] {
        if t.dims() != [out] {
            let what = format!("{name} are {:?}, the layer has {out} outputs", t.dims());
            return Err(Error::Shape { op: "dora", what });
        }
    }
    Ok(())
}
