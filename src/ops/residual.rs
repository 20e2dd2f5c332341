//! The sum on the residual stream, `a + b`: no operation of its own, but candle's keeps one thread busy.

use crate::error::{Error, Result};
use crate::ops::cpu;
use candle_core::Tensor;

/// Computes `a + b`, element by element.
///
/// - `a`, `b` one shape and type: f32, bf16 or f64
/// - returns the sum, of the same shape and type, outside candle's graph
///
/// Precision: computed in f32 (f64 for f64) and rounded once. Errors: [`Error::Shape`] if the shapes differ.
///
/// ```
/// # use ferrotune::{candle_core::{Device, Tensor}, ops::residual};
/// let a = Tensor::new(&[[1f32, 2.]], &Device::Cpu)?;
/// assert_eq!(residual::add(&a, &a)?.to_vec2::<f32>()?, [[2., 4.]]);
/// # Ok::<(), ferrotune::Error>(())
/// ```
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.dims() != b.dims() {
        return Err(Error::Shape { op: "residual", what: format!("a is {:?}, b is {:?}", a.dims(), b.dims()) });
    }
    let (a, b) = (&a.detach(), &b.detach());
    match cpu::residual::add(a, b)? {
        Some(sum) => Ok(sum),
        None => Ok((a + b)?),
    }
}
