//! Root mean square normalisation of rows.
//!
//! For each row x of H elements, with ∘ the element-wise product:
//!
//! ```text
//! inv_rms = 1 / sqrt(mean(x²) + eps)          one number per row, the only thing kept for the backward
//! y       = (inv_rms·x) ∘ w
//!
//! n  = inv_rms·x,   g = dy ∘ w
//! dx = inv_rms·(g - n·mean(g ∘ n))
//! dw = Σ over rows of dy ∘ n
//! ```
//!
//! Source: Zhang & Sennrich, arXiv:1910.07467; transformers' `LlamaRMSNorm`.

use crate::error::{Error, Result};
use crate::ops::cpu;
use candle_core::{D, DType, Tensor};

/// What the backward needs besides the inputs.
#[derive(Clone, Debug)]
pub struct Saved {
    /// 1 / root mean square of each row, `[T]` f32 (f64 where x is): 4·T bytes.
    pub inv_rms: Tensor,
}

const NAME: &str = "rms_norm";

/// Divides each row of `x` by its root mean square and scales it by `w`.
///
/// T = tokens, H = hidden size.
///
/// - `x` `[T, H]` f32, bf16 or f64
/// - `w` `[H]`, type of `x`
/// - `eps` in units of x², added before the root
/// - returns `y` `[T, H]`, type of `x`, outside candle's graph, and what the backward needs
///
/// Precision: sums in f32 (f64 for f64); x·inv_rms is rounded to the type of `x` before `w`, as the source does.
/// Errors: [`Error::Shape`] if `w` does not fit `x`.
///
/// ```
/// # use ferrotune::{candle_core::{Device, Tensor}, ops::rms_norm};
/// let x = Tensor::new(&[[3f32, 4.], [0., 2.]], &Device::Cpu)?;
/// let w = Tensor::new(&[1f32, 10.], &Device::Cpu)?;
/// let (y, saved) = rms_norm::forward(&x, &w, 0.)?;
/// assert_eq!(y.dims(), [2, 2]);
/// assert!((y.get(1)?.to_vec1::<f32>()?[1] - 10. * 2f32.sqrt()).abs() < 1e-5);
/// assert_eq!(saved.inv_rms.dims(), [2]);
/// # Ok::<(), ferrotune::Error>(())
/// ```
pub fn forward(x: &Tensor, w: &Tensor, eps: f64) -> Result<(Tensor, Saved)> {
    let (x, w) = (&x.detach(), &w.detach());
    check(x, w)?;
    match cpu::rms_norm::forward(x, w, eps)? {
        Some(done) => Ok(done),
        None => portable::forward(x, w, eps),
    }
}

/// Turns `dy`, the gradient of `y`, into those of `x` and, if `need_dw`, of `w`.
///
/// - `x`, `w` as in the forward; `saved` from it
/// - `dy` `[T, H]`, type of `x`
/// - returns `dx` `[T, H]` and `dw` `[H]`, type of `x`
///
/// Precision: sums in f32 (f64 for f64). Errors: [`Error::Shape`] if the shapes do not fit.
///
/// ```
/// # use ferrotune::{candle_core::{Device, Tensor}, ops::rms_norm};
/// let x = Tensor::new(&[[3f32, 4.]], &Device::Cpu)?;
/// let w = Tensor::new(&[1f32, 1.], &Device::Cpu)?;
/// let (y, saved) = rms_norm::forward(&x, &w, 0.)?;
/// // The output does not change with the length of `x`, so the gradient is at right angles to it.
/// let (dx, _) = rms_norm::backward(&x, &w, &saved, &Tensor::new(&[[1f32, 0.]], &Device::Cpu)?, false)?;
/// assert!((&dx * &x)?.sum_all()?.to_scalar::<f32>()?.abs() < 1e-6);
/// # Ok::<(), ferrotune::Error>(())
/// ```
pub fn backward(x: &Tensor, w: &Tensor, saved: &Saved, dy: &Tensor, need_dw: bool) -> Result<(Tensor, Option<Tensor>)> {
    let (x, w, dy) = (&x.detach(), &w.detach(), &dy.detach());
    check(x, w)?;
    if dy.dims() != x.dims() || saved.inv_rms.dims() != [x.dim(0)?] {
        let what =
            format!("x is {:?}, its gradient {:?}, the saved roots {:?}", x.dims(), dy.dims(), saved.inv_rms.dims());
        return Err(Error::Shape { op: NAME, what });
    }
    match cpu::rms_norm::backward(x, w, saved, dy, need_dw)? {
        Some(done) => Ok(done),
        None => portable::backward(x, w, saved, dy, need_dw),
    }
}

/// The op as a node of candle's graph, with gradients to `x` and `w`.
///
/// Arguments, result and errors as in [`forward`].
pub fn apply(x: &Tensor, w: &Tensor, eps: f64) -> Result<Tensor> {
    let (y, saved) = forward(x, w, eps)?;
    let (x_, w_) = (x.detach(), w.detach());
    super::graph::attach(&[x, w], y, move |dy| {
        let (dx, dw) = backward(&x_, &w_, &saved, dy, true)?;
        Ok(vec![Some(dx), dw])
    })
}

fn check(x: &Tensor, w: &Tensor) -> Result<()> {
    match (x.dims(), w.dims()) {
        ([_, h], [n]) if h == n && *h > 0 => Ok(()),
        (x, w) => Err(Error::Shape { op: NAME, what: format!("x is {x:?} and w {w:?}, which are not [T, H] and [H]") }),
    }
}

/// The op in candle's tensor operations: any device, any float type. Arguments and results as in the parent module.
pub mod portable {
    use super::*;

    /// See [`super::forward`].
    pub fn forward(x: &Tensor, w: &Tensor, eps: f64) -> Result<(Tensor, Saved)> {
        let wide = x.to_dtype(sum_type(x.dtype()))?;
        let inv_rms = (wide.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?.recip()?;
        let n = wide.broadcast_mul(&inv_rms)?.to_dtype(x.dtype())?;
        Ok((n.broadcast_mul(w)?, Saved { inv_rms: inv_rms.squeeze(D::Minus1)? }))
    }

    /// See [`super::backward`].
    pub fn backward(
        x: &Tensor,
        w: &Tensor,
        saved: &Saved,
        dy: &Tensor,
        need_dw: bool,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let wide = sum_type(x.dtype());
        let (dy, inv_rms) = (dy.to_dtype(wide)?, saved.inv_rms.unsqueeze(D::Minus1)?);
        let n = x.to_dtype(wide)?.broadcast_mul(&inv_rms)?;
        let g = dy.broadcast_mul(&w.to_dtype(wide)?)?;
        let mean = (&g * &n)?.mean_keepdim(D::Minus1)?;
        let dx = (g - n.broadcast_mul(&mean)?)?.broadcast_mul(&inv_rms)?.to_dtype(x.dtype())?;
        let dw = if need_dw { Some((dy * n)?.sum(0)?.to_dtype(x.dtype())?) } else { None };
        Ok((dx, dw))
    }

    fn sum_type(dtype: DType) -> DType {
        if dtype == DType::F64 { DType::F64 } else { DType::F32 }
    }
}
