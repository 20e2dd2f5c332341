//! A linear layer whose weight is frozen, in 4 bits or dense, with a trainable low-rank branch beside it.
//!
//! With m the dropout mask (0 or 1), p its probability, s the branch's scale, ∘ the element-wise product:
//!
//! ```text
//! h  = (m ∘ x)·Aᵀ / (1 - p)                          [T, r], the only thing kept for the backward
//! y  = x·Wᵀ + bias + s·h·Bᵀ
//!
//! g  = s·dy·B                                        [T, r]
//! dB = s·dyᵀ·h                                       [out, r]
//! dA = gᵀ·(m ∘ x) / (1 - p)                          [r, in]
//! dx = dy·W + m ∘ (g·A) / (1 - p)                    [T, in]
//! dW = dyᵀ·x                                         [out, in], only where the method trains W
//! ```
//!
//! The mask is a function of its seed (see `ops::dropout`), so the backward computes it again. A 4-bit W is decoded
//! when it is used and never kept. Source: Hu et al., arXiv:2106.09685; Dettmers et al., arXiv:2305.14314.

use crate::error::{Error, Result};
use crate::ops::cpu;
pub use crate::ops::dropout::Dropout;
use crate::ops::graph;
use crate::ops::weight::Weight;
use candle_core::{DType, Tensor};

/// The trainable branch, `s·dropout(x)·Aᵀ·Bᵀ`.
#[derive(Clone, Copy, Debug)]
pub struct LoraBranch<'a> {
    /// A, `[r, in]`.
    pub a: &'a Tensor,
    /// B, `[out, r]`.
    pub b: &'a Tensor,
    /// s: alpha / r, or alpha / sqrt(r) for rsLoRA.
    pub scale: f64,
    /// On x before A, while training.
    pub dropout: Option<Dropout>,
}

impl LoraBranch<'_> {
    /// The dropout, unless it drops nothing.
    pub(in crate::ops) fn active_dropout(&self) -> Option<Dropout> {
        self.dropout.filter(|d| d.p > 0.)
    }
}

/// What the backward needs besides the inputs.
#[derive(Clone, Debug, Default)]
pub struct Saved {
    /// `[T, r]` f32 (f64 where x is): 4·T·r bytes; none without a branch.
    h: Option<Tensor>,
}

/// Which of the gradients are wanted besides those of the branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// The input's.
    pub dx: bool,
    /// The weight's; only a dense weight has one.
    pub dw: bool,
}

/// The gradients; `None` for what was not asked for or does not exist.
#[derive(Debug, Default)]
pub struct Grads {
    /// `[T, in]`, type of x.
    pub dx: Option<Tensor>,
    /// `[r, in]`, type of A.
    pub da: Option<Tensor>,
    /// `[out, r]`, type of B.
    pub db: Option<Tensor>,
    /// `[out, in]`, type of W.
    pub dw: Option<Tensor>,
}

const NAME: &str = "qlora_linear";

/// Computes `y = x·Wᵀ + bias + s·dropout(x)·Aᵀ·Bᵀ`.
///
/// - `x` `[T, in]` f32 or bf16 (f64 for tests)
/// - `w` `[out, in]`
/// - `bias` `[out]`
/// - `lora` see [`LoraBranch`]; A and B in f32 (f64 for tests)
/// - returns `y` `[T, out]`, type of `x`, outside candle's graph
///
/// Precision: on the CPU sums in f32. With bf16 inputs W, A, B and the scaled h are rounded to bf16 and the products' sums
/// are f32; h is kept in f32.
/// Errors: [`Error::Shape`] if the shapes do not fit, [`Error::Config`] for an impossible dropout.
///
/// ```
/// # use ferrotune::candle_core::{Device, Tensor};
/// # use ferrotune::ops::{qlora_linear::{self, LoraBranch}, weight::Weight};
/// let x = Tensor::new(&[[1f32, 2., 3., 4.], [0., 1., 0., 1.]], &Device::Cpu)?;
/// let w = Weight::Dense(Tensor::new(&[[1f32, 0., 0., 0.], [0., 1., 0., 0.]], &Device::Cpu)?);
/// let a = Tensor::new(&[[0f32, 0., 0., 1.]], &Device::Cpu)?;
/// let b = Tensor::new(&[[1f32], [0.]], &Device::Cpu)?;
/// let lora = LoraBranch { a: &a, b: &b, scale: 2., dropout: None };
/// let (y, _) = qlora_linear::forward(&x, &w, None, Some(&lora))?;
/// assert_eq!(y.to_vec2::<f32>()?, [[9., 2.], [2., 1.]]);
/// # Ok::<(), ferrotune::Error>(())
/// ```
pub fn forward(x: &Tensor, w: &Weight, bias: Option<&Tensor>, lora: Option<&LoraBranch>) -> Result<(Tensor, Saved)> {
    check(x, w, bias, lora)?;
    match cpu::qlora_linear::forward(x, w, bias, lora)? {
        Some((y, h)) => Ok((y, Saved { h })),
        None => portable::forward(x, w, bias, lora),
    }
}

/// What [`forward`] saves, without its output: for a backward that computes the forward again.
///
/// Errors: as [`forward`].
///
/// ```
/// # use ferrotune::candle_core::{Device, Tensor};
/// # use ferrotune::ops::{qlora_linear::{self, LoraBranch, Needs}, weight::Weight};
/// let x = Tensor::new(&[[1f32, 2., 3., 4.]], &Device::Cpu)?;
/// let w = Weight::Dense(Tensor::new(&[[1f32, 0., 0., 0.]], &Device::Cpu)?);
/// let (a, b) = (Tensor::new(&[[0f32, 0., 0., 1.]], &Device::Cpu)?, Tensor::new(&[[1f32]], &Device::Cpu)?);
/// let lora = LoraBranch { a: &a, b: &b, scale: 2., dropout: None };
/// let saved = qlora_linear::saved(&x, &w, Some(&lora))?;
/// let dy = Tensor::new(&[[1f32]], &Device::Cpu)?;
/// let grads = qlora_linear::backward(&x, &w, Some(&lora), &saved, &dy, Needs { dx: false, dw: false })?;
/// assert_eq!(grads.db.unwrap().to_vec2::<f32>()?, [[8.]]);
/// # Ok::<(), ferrotune::Error>(())
/// ```
pub fn saved(x: &Tensor, w: &Weight, lora: Option<&LoraBranch>) -> Result<Saved> {
    check(x, w, None, lora)?;
    let Some(lora) = lora else { return Ok(Saved::default()) };
    let h = match cpu::qlora_linear::h(x, lora)? {
        Some(h) => h,
        None => portable::h(&x.detach(), lora)?,
    };
    Ok(Saved { h: Some(h) })
}

/// The gradients of [`forward`] for the output's gradient `dy` `[T, out]`, type of `x`.
///
/// `x`, `w` and `lora` must be the forward's, the dropout's seed included. For a branch, `da` and `db` always come.
///
/// Errors: [`Error::Shape`] if the shapes do not fit, if `saved` is of a call with another branch, or if `needs.dw` is
/// set for a weight in 4 bits.
///
/// ```
/// # use ferrotune::candle_core::{Device, Tensor};
/// # use ferrotune::ops::{qlora_linear::{self, Needs}, weight::Weight};
/// let x = Tensor::new(&[[1f32, 2., 3., 4.], [0., 1., 0., 1.]], &Device::Cpu)?;
/// let w = Weight::Dense(Tensor::new(&[[1f32, 0., 0., 5.], [0., 1., 0., 0.]], &Device::Cpu)?);
/// let (y, saved) = qlora_linear::forward(&x, &w, None, None)?;
/// let needs = Needs { dx: true, dw: false };
/// let grads = qlora_linear::backward(&x, &w, None, &saved, &y.ones_like()?, needs)?;
/// assert_eq!(grads.dx.unwrap().to_vec2::<f32>()?, [[1., 1., 0., 5.], [1., 1., 0., 5.]]);
/// # Ok::<(), ferrotune::Error>(())
/// ```
pub fn backward(
    x: &Tensor,
    w: &Weight,
    lora: Option<&LoraBranch>,
    saved: &Saved,
    dy: &Tensor,
    needs: Needs,
) -> Result<Grads> {
    check(x, w, None, lora)?;
    expect("dy", dy, &[x.dims()[0], w.out_features()])?;
    match (lora, &saved.h) {
        (Some(lora), Some(h)) => expect("the saved h", h, &[x.dims()[0], lora.a.dims()[0]])?,
        (None, None) => {}
        (Some(_), None) => return Err(shape("the forward had no low-rank branch".into())),
        (None, Some(_)) => return Err(shape("the forward had a low-rank branch".into())),
    }
    if needs.dw && matches!(w, Weight::Quantized(_)) {
        return Err(shape("a weight in 4 bits has no gradient".into()));
    }
    let h = saved.h.as_ref();
    match cpu::qlora_linear::backward(x, w, lora, h, dy, needs)? {
        Some(grads) => Ok(grads),
        None => portable::backward(x, w, lora, saved, dy, needs),
    }
}

/// [`forward`] inside candle's own graph, whose backward then runs [`backward`] for x, A and B; W is frozen.
///
/// Errors: as [`forward`].
///
/// ```
/// # use ferrotune::candle_core::{Device, Tensor, Var};
/// # use ferrotune::ops::{qlora_linear::{self, LoraBranch}, weight::Weight};
/// let x = Tensor::new(&[[1f32, 2., 3., 4.], [0., 1., 0., 1.]], &Device::Cpu)?;
/// let w = Weight::Dense(Tensor::new(&[[1f32, 0., 0., 0.], [0., 1., 0., 0.]], &Device::Cpu)?);
/// let a = Tensor::new(&[[0f32, 0., 0., 1.]], &Device::Cpu)?;
/// let b = Var::new(&[[0f32], [0.]], &Device::Cpu)?;
/// let lora = LoraBranch { a: &a, b: &b, scale: 2., dropout: None };
/// let y = qlora_linear::apply(&x, &w, None, Some(&lora))?;
/// let db = y.sum_all()?.backward()?.get(&b).unwrap().to_vec2::<f32>()?;
/// assert_eq!(db, [[10.], [10.]]);
/// # Ok::<(), ferrotune::Error>(())
/// ```
pub fn apply(x: &Tensor, w: &Weight, bias: Option<&Tensor>, lora: Option<&LoraBranch>) -> Result<Tensor> {
    let (y, saved) = forward(x, w, bias, lora)?;
    let needs = Needs { dx: true, dw: false };
    let (kept_x, w) = (x.detach(), w.clone());
    let Some(lora) = lora else {
        return graph::attach(&[x], y, move |dy| Ok(vec![backward(&kept_x, &w, None, &saved, dy, needs)?.dx]));
    };
    let (a, b, scale, dropout) = (lora.a.detach(), lora.b.detach(), lora.scale, lora.dropout);
    graph::attach(&[x, lora.a, lora.b], y, move |dy| {
        let lora = LoraBranch { a: &a, b: &b, scale, dropout };
        let grads = backward(&kept_x, &w, Some(&lora), &saved, dy, needs)?;
        Ok(vec![grads.dx, grads.da, grads.db])
    })
}

fn check(x: &Tensor, w: &Weight, bias: Option<&Tensor>, lora: Option<&LoraBranch>) -> Result<()> {
    let (out, input) = (w.out_features(), w.in_features());
    if let Weight::Dense(w) = w {
        expect("the weight", w, &[out, input])?;
    }
    if x.dims().len() != 2 || x.dims()[1] != input {
        return Err(shape(format!("x is {:?}, the weight takes {input} inputs", x.dims())));
    }
    if let Some(bias) = bias {
        expect("the bias", bias, &[out])?;
    }
    if let Some(lora) = lora {
        let rank = lora.a.dims().first().copied().unwrap_or(0);
        expect("A", lora.a, &[rank, input])?;
        expect("B", lora.b, &[out, rank])?;
        if rank == 0 {
            return Err(shape("the low-rank branch has rank 0".into()));
        }
        lora.dropout.map_or(Ok(()), |d| d.check())?;
    }
    Ok(())
}

fn expect(name: &str, t: &Tensor, want: &[usize]) -> Result<()> {
    if t.dims() == want { Ok(()) } else { Err(shape(format!("{name} is {:?}, expected {want:?}", t.dims()))) }
}

fn shape(what: String) -> Error {
    Error::Shape { op: NAME, what }
}

/// The same in candle's tensor operations, for every device and float type; arguments are not checked again.
pub mod portable {
    use super::*;

    /// See [`super::forward`].
    pub fn forward(
        x: &Tensor,
        w: &Weight,
        bias: Option<&Tensor>,
        lora: Option<&LoraBranch>,
    ) -> Result<(Tensor, Saved)> {
        let (x, dtype) = (x.detach(), x.dtype());
        let mut y = x.matmul(&w.dequantize(dtype)?.detach().t()?)?;
        if let Some(bias) = bias {
            y = y.broadcast_add(&bias.detach().to_dtype(dtype)?)?;
        }
        let Some(lora) = lora else {
            return Ok((y, Saved::default()));
        };
        let h = h(&x, lora)?;
        let scaled = (&h * lora.scale)?.to_dtype(dtype)?;
        let y = (y + scaled.matmul(&like(lora.b, dtype)?.t()?)?)?;
        Ok((y, Saved { h: Some(h) }))
    }

    /// `h`, from an x outside the graph.
    pub(super) fn h(x: &Tensor, lora: &LoraBranch) -> Result<Tensor> {
        let h = masked(x, lora)?.matmul(&like(lora.a, x.dtype())?.t()?)?;
        Ok((h.to_dtype(wide(x.dtype()))? * lora.active_dropout().map_or(1., |d| d.scale()))?)
    }

    /// See [`super::backward`].
    pub fn backward(
        x: &Tensor,
        w: &Weight,
        lora: Option<&LoraBranch>,
        saved: &Saved,
        dy: &Tensor,
        needs: Needs,
    ) -> Result<Grads> {
        let (x, dy, dtype) = (x.detach(), dy.detach(), x.dtype());
        let mut grads = Grads::default();
        if needs.dx {
            grads.dx = Some(dy.matmul(&w.dequantize(dtype)?.detach())?);
        }
        if let (Weight::Dense(w), true) = (w, needs.dw) {
            grads.dw = Some(dy.t()?.matmul(&x)?.to_dtype(w.dtype())?);
        }
        let (Some(lora), Some(h)) = (lora, &saved.h) else {
            return Ok(grads);
        };
        let scaled = (h * lora.scale)?.to_dtype(dtype)?;
        grads.db = Some(dy.t()?.matmul(&scaled)?.to_dtype(lora.b.dtype())?);
        // 1 / (1 - p) goes into g, since both uses of g carry it.
        let scale = lora.scale * lora.active_dropout().map_or(1., |d| d.scale());
        let g = (dy.matmul(&like(lora.b, dtype)?)?.to_dtype(wide(dtype))? * scale)?.to_dtype(dtype)?;
        grads.da = Some(g.t()?.matmul(&masked(&x, lora)?)?.to_dtype(lora.a.dtype())?);
        if let Some(dx) = grads.dx.take() {
            grads.dx = Some((dx + masked(&g.matmul(&like(lora.a, dtype)?)?, lora)?)?);
        }
        Ok(grads)
    }

    /// `m ∘ t`.
    fn masked(t: &Tensor, lora: &LoraBranch) -> Result<Tensor> {
        match lora.active_dropout() {
            Some(dropout) => Ok((t * dropout.mask(t.shape(), t.dtype(), t.device())?)?),
            None => Ok(t.clone()),
        }
    }

    fn like(t: &Tensor, dtype: DType) -> Result<Tensor> {
        Ok(t.detach().to_dtype(dtype)?)
    }

    /// The type in which small factors are applied.
    fn wide(dtype: DType) -> DType {
        if dtype == DType::F64 { DType::F64 } else { DType::F32 }
    }
}
