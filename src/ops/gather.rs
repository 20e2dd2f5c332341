//! Rows of one matrix, gathered and added up to the rows of another: `y = P·x` for a matrix P of zeros and ones.
//!
//! The gradient is `dx = Pᵀ·dy`, which is a gathering of its own, [`Gather::transposed`].

use crate::error::{Error, Result};
use crate::ops::cpu;
use candle_core::{DType, Device, Tensor};

/// P `[out, in]`, as the rows of x that each row of y is the sum of.
#[derive(Debug)]
pub struct Gather {
    /// Rows of x.
    inputs: usize,
    /// For each row of y, where its sources begin in `sources`; and their number.
    offsets: Vec<u32>,
    sources: Vec<u32>,
    /// The row of y that each source is added to, and `sources`, for candle's operations on the device.
    indices: [Tensor; 2],
}

impl Gather {
    /// Row i of y is row `sources[i]` of x, which has `inputs` rows.
    ///
    /// Errors: [`Error::Shape`] if x has no such row.
    pub fn select(sources: &[u32], inputs: usize, device: &Device) -> Result<Self> {
        Self::new((0..=sources.len() as u32).collect(), sources.to_vec(), inputs, device)
    }

    /// Pᵀ: each row of x to those that were made of it.
    pub fn transposed(&self) -> Result<Self> {
        let mut offsets = vec![0; self.inputs + 1];
        self.sources.iter().for_each(|&source| offsets[source as usize + 1] += 1);
        for i in 0..self.inputs {
            offsets[i + 1] += offsets[i];
        }
        let (mut next, mut sources) = (offsets.clone(), vec![0; self.sources.len()]);
        for (row, &source) in rows(&self.offsets).zip(&self.sources) {
            let at = &mut next[source as usize];
            sources[*at as usize] = row;
            *at += 1;
        }
        Self::new(offsets, sources, self.outputs(), self.indices[0].device())
    }

    fn new(offsets: Vec<u32>, sources: Vec<u32>, inputs: usize, device: &Device) -> Result<Self> {
        if let Some(row) = sources.iter().find(|&&row| row as usize >= inputs) {
            return Err(Error::Shape { op: "gather", what: format!("row {row} of {inputs}") });
        }
        let indices = [Tensor::from_iter(rows(&offsets), device)?, Tensor::new(&*sources, device)?];
        Ok(Self { inputs, offsets, sources, indices })
    }

    /// Rows of y.
    fn outputs(&self) -> usize {
        self.offsets.len() - 1
    }

    /// `x` `[in, n]` to `y` `[out, n]`, of the same type: f32, bf16 or f64.
    ///
    /// Precision: sums in f32 (f64 for f64), rounded once. Errors: [`Error::Shape`] if `x` is of another shape.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let x = &x.detach();
        let &[rows, width] = x.dims() else { return Err(self.misfit(x)) };
        if rows != self.inputs {
            return Err(self.misfit(x));
        }
        match cpu::gather::apply(x, &self.offsets, &self.sources)? {
            Some(y) => Ok(y),
            None => self.portable(x, width),
        }
    }

    fn portable(&self, x: &Tensor, width: usize) -> Result<Tensor> {
        let sum = if x.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        let [rows, sources] = &self.indices;
        let gathered = x.index_select(sources, 0)?.to_dtype(sum)?;
        let zeros = Tensor::zeros((self.outputs(), width), sum, x.device())?;
        Ok(zeros.index_add(rows, &gathered, 0)?.to_dtype(x.dtype())?)
    }

    fn misfit(&self, x: &Tensor) -> Error {
        Error::Shape { op: "gather", what: format!("x is {:?}, not {} rows", x.dims(), self.inputs) }
    }
}

/// The row of y that each source is added to.
fn rows(offsets: &[u32]) -> impl Iterator<Item = u32> {
    offsets.windows(2).zip(0..).flat_map(|(ends, row)| (ends[0]..ends[1]).map(move |_| row))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCES: [u32; 7] = [0, 1, 2, 0, 1, 4, 3];

    #[test]
    fn rows_go_to_their_places_and_gradients_come_back() -> Result<()> {
        let spread = Gather::select(&SOURCES, 6, &Device::Cpu)?;
        let x = Tensor::new(&[[1f32], [2.], [3.], [4.], [5.], [6.]], &Device::Cpu)?;
        let y = spread.apply(&x)?;
        assert_eq!(y.flatten_all()?.to_vec1::<f32>()?, [1., 2., 3., 1., 2., 5., 4.]);
        let back = spread.transposed()?;
        assert_eq!(back.apply(&y)?.flatten_all()?.to_vec1::<f32>()?, [2., 4., 3., 4., 5., 0.]);
        let again = back.transposed()?;
        assert_eq!(again.apply(&x)?.to_vec2::<f32>()?, y.to_vec2::<f32>()?);
        Ok(())
    }

    #[test]
    fn both_forms_agree_to_the_bit() -> Result<()> {
        let spread = Gather::select(&SOURCES, 6, &Device::Cpu)?;
        for (gather, rows) in [(&spread, 6), (&spread.transposed()?, 7)] {
            for width in [1, 33, 576] {
                for dtype in [DType::F32, DType::BF16] {
                    let x = Tensor::randn(0f32, 1., (rows, width), &Device::Cpu)?.to_dtype(dtype)?;
                    let bits = |y: Tensor| Ok::<_, Error>(y.to_dtype(DType::F32)?.to_vec2::<f32>()?);
                    assert_eq!(
                        bits(gather.apply(&x)?)?,
                        bits(gather.portable(&x, width)?)?,
                        "{rows} x {width} {dtype:?}"
                    );
                }
            }
        }
        Ok(())
    }

    #[test]
    fn rows_that_are_not_there_are_an_error() -> Result<()> {
        assert!(matches!(Gather::select(&[2], 2, &Device::Cpu), Err(Error::Shape { .. })));
        let one = Gather::select(&[0], 2, &Device::Cpu)?;
        assert!(matches!(one.apply(&Tensor::zeros((3, 2), DType::F32, &Device::Cpu)?), Err(Error::Shape { .. })));
        assert!(matches!(one.apply(&Tensor::zeros(2, DType::F32, &Device::Cpu)?), Err(Error::Shape { .. })));
        Ok(())
    }
}
