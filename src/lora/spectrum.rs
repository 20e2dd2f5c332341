//! The singular values of an update: along how many directions it changes a weight, and how much along each.

use candle_core::{DType, Tensor};

use super::LoraLayer;
use crate::Result;

/// Sweeps over all pairs of columns. Each makes what is left of their products quadratically smaller; ten are plenty.
const SWEEPS: usize = 30;

impl LoraLayer {
    /// ΔW = s·B·A, `[out, in]` in f32: what the branch adds to the weight.
    ///
    /// Errors: candle's.
    pub fn update(&self) -> Result<Tensor> {
        Ok((self.b.matmul(&self.a)? * self.scale)?)
    }

    /// The singular values of [`LoraLayer::update`], the largest first; no more than its rank are not zero.
    ///
    /// Errors: candle's.
    pub fn singular_values(&self) -> Result<Vec<f64>> {
        singular_values(&self.update()?)
    }
}

/// The singular values of a matrix, the largest first.
///
/// One-sided Jacobi: columns are rotated in pairs until all are orthogonal; their lengths are the singular values (Golub and Van
/// Loan, *Matrix Computations*, 8.6.3). It takes O(m·n²) for an m × n matrix with m ≥ n, so seconds for a thousand columns.
///
/// Errors: candle's, for what is no matrix.
///
/// ```
/// # use ferrotune::{candle_core::{Device, Tensor}, lora::singular_values};
/// let diagonal = Tensor::new(&[[0f32, 2.], [3., 0.], [0., 0.]], &Device::Cpu)?;
/// assert_eq!(singular_values(&diagonal)?, [3., 2.]);
/// # Ok::<(), ferrotune::Error>(())
/// ```
pub fn singular_values(matrix: &Tensor) -> Result<Vec<f64>> {
    let (rows, columns) = matrix.dims2()?;
    // The fewer vectors to turn, the better.
    let matrix = if rows < columns { matrix.clone() } else { matrix.t()? };
    let mut vectors = matrix.to_dtype(DType::F64)?.to_vec2::<f64>()?;
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    for _ in 0..SWEEPS {
        let mut turned = false;
        for i in 1..vectors.len() {
            let (before, rest) = vectors.split_at_mut(i);
            let q = &mut rest[0];
            for p in before {
                let (a, b, c) = (dot(p, p), dot(q, q), dot(p, q));
                if c == 0.0 || c.abs() <= 1e-15 * (a * b).sqrt() {
                    continue;
                }
                turned = true;
                let zeta = (b - a) / (2.0 * c);
                let tangent = zeta.signum() / (zeta.abs() + zeta.hypot(1.0));
                let cosine = 1.0 / tangent.hypot(1.0);
                let sine = cosine * tangent;
                for (x, y) in p.iter_mut().zip(q.iter_mut()) {
                    (*x, *y) = (cosine * *x - sine * *y, sine * *x + cosine * *y);
                }
            }
        }
        if !turned {
            break;
        }
    }
    let mut values: Vec<f64> = vectors.iter().map(|vector| dot(vector, vector).sqrt()).collect();
    values.sort_by(|a, b| b.total_cmp(a));
    Ok(values)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn matrix(rows: usize, columns: usize) -> Tensor {
        let values: Vec<f32> = (0..rows * columns).map(|i| ((i * i + 3 * i) as f32 * 0.37).sin()).collect();
        Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap()
    }

    #[test]
    fn the_sum_of_squares_is_kept_and_the_transposed_has_the_same() {
        let m = matrix(7, 12);
        let values = singular_values(&m).unwrap();
        let squares = f64::from(m.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap());
        assert!((values.iter().map(|v| v * v).sum::<f64>() - squares).abs() < 1e-5 * squares);
        let transposed = singular_values(&m.t().unwrap()).unwrap();
        assert!(values.iter().zip(&transposed).all(|(a, b)| (a - b).abs() < 1e-9), "{values:?} {transposed:?}");
    }

    #[test]
    fn an_update_of_rank_three_has_three() {
        let layer = LoraLayer { a: matrix(3, 20), b: matrix(10, 3), scale: 2.0, dropout: 0.0, magnitude: None };
        let values = layer.singular_values().unwrap();
        assert_eq!(values.len(), 10);
        assert!(values[2] > 1e-2 && values[3] < 1e-5, "{values:?}");
        let zero = LoraLayer { b: layer.b.zeros_like().unwrap(), ..layer };
        assert!(zero.singular_values().unwrap().iter().all(|value| *value == 0.0));
    }
}
