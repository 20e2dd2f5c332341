//! The gate of the feed-forward layer.
//!
//! With s = 1 / (1 + e^-gate), element by element:
//!
//! ```text
//! y     = gate·s·up                             nothing is kept for the backward; s is computed again
//!
//! dup   = dy·gate·s
//! dgate = dy·up·s·(1 + gate·(1 - s))
//! ```
//!
//! Source: Shazeer, arXiv:2002.05202; transformers' `LlamaMLP` with `silu`.

use crate::error::{Error, Result};
use crate::ops::cpu;
use candle_core::{DType, Tensor};

const NAME: &str = "swiglu";

/// Computes `silu(gate)·up`, element by element.
///
/// - `gate`, `up` one shape and type: f32, bf16 or f64
/// - returns `y` of the same shape and type, outside candle's graph
///
/// Precision: computed in f32 (f64 for f64) and rounded once. Errors: [`Error::Shape`] if the shapes differ.
///
/// ```
/// # use ferrotune::{candle_core::{Device, Tensor}, ops::swiglu};
/// let gate = Tensor::new(&[[0f32, 50.]], &Device::Cpu)?;
/// let up = Tensor::new(&[[3f32, 2.]], &Device::Cpu)?;
/// assert_eq!(swiglu::forward(&gate, &up)?.to_vec2::<f32>()?, [[0., 100.]]);
/// # Ok::<(), ferrotune::Error>(())
/// ```
pub fn forward(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    let (gate, up) = (&gate.detach(), &up.detach());
    check(gate, up)?;
    match cpu::swiglu::forward(gate, up)? {
        Some(y) => Ok(y),
        None => portable::forward(gate, up),
    }
}

/// Turns `dy`, the gradient of `y`, into those of `gate` and `up`, in this order.
///
/// Shapes, types, precision and errors as in [`forward`].
///
/// ```
/// # use ferrotune::{candle_core::{Device, Tensor}, ops::swiglu};
/// let [gate, up, dy] = [0f32, 3., 1.].map(|v| Tensor::new(&[[v]], &Device::Cpu));
/// let (dgate, dup) = swiglu::backward(&gate?, &up?, &dy?)?;
/// assert_eq!(dgate.to_vec2::<f32>()?, [[1.5]]);
/// assert_eq!(dup.to_vec2::<f32>()?, [[0.]]);
/// # Ok::<(), ferrotune::Error>(())
/// ```
pub fn backward(gate: &Tensor, up: &Tensor, dy: &Tensor) -> Result<(Tensor, Tensor)> {
    let (gate, up, dy) = (&gate.detach(), &up.detach(), &dy.detach());
    check(gate, up)?;
    check(gate, dy)?;
    match cpu::swiglu::backward(gate, up, dy)? {
        Some(done) => Ok(done),
        None => portable::backward(gate, up, dy),
    }
}

/// The op as a node of candle's graph, with gradients to `gate` and `up`.
///
/// Arguments, result and errors as in [`forward`].
pub fn apply(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    let (gate_, up_) = (gate.detach(), up.detach());
    super::graph::attach(&[gate, up], forward(gate, up)?, move |dy| {
        let (dgate, dup) = backward(&gate_, &up_, dy)?;
        Ok(vec![Some(dgate), Some(dup)])
    })
}

fn check(a: &Tensor, b: &Tensor) -> Result<()> {
    if a.dims() == b.dims() {
        return Ok(());
    }
    Err(Error::Shape { op: NAME, what: format!("operands of different shapes, {:?} and {:?}", a.dims(), b.dims()) })
}

/// The op in candle's tensor operations: any device, any float type. Arguments and results as in the parent module.
pub mod portable {
    use super::*;

    /// See [`super::forward`].
    pub fn forward(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        let [wide_gate, wide_up] = [wide(gate)?, wide(up)?];
        Ok((&wide_gate * sigmoid(&wide_gate)? * wide_up)?.to_dtype(gate.dtype())?)
    }

    /// See [`super::backward`].
    pub fn backward(gate: &Tensor, up: &Tensor, dy: &Tensor) -> Result<(Tensor, Tensor)> {
        let dtype = gate.dtype();
        let [gate, up, dy] = [wide(gate)?, wide(up)?, wide(dy)?];
        let s = sigmoid(&gate)?;
        let dup = (&dy * (&gate * &s)?)?;
        let slope = (&s * ((gate * (1. - &s)?)? + 1.)?)?;
        Ok(((dy * up * slope)?.to_dtype(dtype)?, dup.to_dtype(dtype)?))
    }

    fn sigmoid(x: &Tensor) -> Result<Tensor> {
        Ok((x.neg()?.exp()? + 1.)?.recip()?)
    }

    fn wide(x: &Tensor) -> Result<Tensor> {
        Ok(if x.dtype() == DType::F64 { x.clone() } else { x.to_dtype(DType::F32)? })
    }
}
