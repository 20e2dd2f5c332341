//! `rope`.

use super::{Case, Computed, check, random};
use ferrotune::candle_core::{D, Device, Tensor};
use ferrotune::ops::rope::{self, RopeTable, portable};
use ferrotune::{Error, Result};

/// Heads of q, heads of k, head_dim, attention scaling, positions.
#[derive(Debug)]
struct Rotation(usize, usize, usize, f64, &'static [u32]);

const CASES: &[Rotation] = &[
    Rotation(1, 1, 2, 1., &[0]),
    Rotation(2, 1, 6, 1., &[63]),
    Rotation(3, 3, 2, 1., &[0, 1, 2, 0, 0, 1]),
    Rotation(9, 3, 64, 1., &[0, 1, 2, 3, 4, 0, 1, 2, 17, 9, 60, 5, 4, 3, 2, 1, 0, 1, 2]),
    Rotation(4, 2, 10, 1.25, &[7, 8, 9]),
];

fn inv_freq(head_dim: usize) -> Vec<f32> {
    (0..head_dim / 2).map(|i| 1e4f32.powf(-2. * i as f32 / head_dim as f32)).collect()
}

impl Rotation {
    fn table(&self) -> Result<RopeTable> {
        RopeTable::new(&inv_freq(self.2), 64, self.3, &Device::Cpu)
    }
}

impl Case for Rotation {
    fn shapes(&self) -> Vec<Vec<usize>> {
        [self.0, self.1].map(|heads| vec![self.4.len(), heads * self.2]).to_vec()
    }

    fn roundings(&self) -> f64 {
        4.
    }

    /// transformers' `x * cos + rotate_half(x) * sin`.
    fn reference(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        let (t, d) = (self.4.len(), self.2);
        let table = |f: fn(f64) -> f64| {
            let angles = self.4.iter().flat_map(|&p| inv_freq(d).repeat(2).into_iter().map(move |w| p as f32 * w));
            let values: Vec<f32> = angles.map(|angle| (f(angle.into()) * self.3) as f32).collect();
            Tensor::from_vec(values, (t, 1, d), &Device::Cpu)?.to_dtype(inputs[0].dtype())
        };
        let (cos, sin) = (table(f64::cos)?, table(f64::sin)?);
        let rotated = |x: &Tensor| {
            let x = x.reshape((t, x.dim(1)? / d, d))?;
            let halves = [x.narrow(D::Minus1, d / 2, d / 2)?.neg()?, x.narrow(D::Minus1, 0, d / 2)?];
            let turned = Tensor::cat(&halves, D::Minus1)?;
            Ok((x.broadcast_mul(&cos)? + turned.broadcast_mul(&sin)?)?.flatten_from(1)?)
        };
        inputs.iter().map(rotated).collect()
    }

    fn op(&self, inputs: &[Tensor], dys: &[Tensor]) -> Computed {
        let (q, k) = rope::forward(&inputs[0], &inputs[1], &self.table()?, self.4)?;
        let (dq, dk) = rope::backward(&dys[0], &dys[1], &self.table()?, self.4)?;
        Ok((vec![q, k], vec![dq, dk]))
    }

    fn portable(&self, inputs: &[Tensor], dys: &[Tensor]) -> Computed {
        let (q, k) = portable::forward(&inputs[0], &inputs[1], &self.table()?, self.4)?;
        let (dq, dk) = portable::backward(&dys[0], &dys[1], &self.table()?, self.4)?;
        Ok((vec![q, k], vec![dq, dk]))
    }

    fn apply(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        let (q, k) = rope::apply(&inputs[0], &inputs[1], &self.table()?, self.4)?;
        Ok(vec![q, k])
    }
}

#[test]
fn every_form_agrees() -> Result<()> {
    CASES.iter().try_for_each(|case| check(case))
}

#[test]
fn scores_depend_on_the_distance_only() -> Result<()> {
    let table = RopeTable::new(&inv_freq(8), 64, 1., &Device::Cpu)?;
    let (q, k) = (random(&[1, 8], 1)?, random(&[1, 8], 2)?);
    let score = |query: u32, key: u32| {
        let (q, _) = rope::forward(&q, &q, &table, &[query])?;
        let (_, k) = rope::forward(&k, &k, &table, &[key])?;
        Ok::<_, Error>((q * k)?.sum_all()?.to_scalar::<f32>()?)
    };
    assert!((score(9, 4)? - score(60, 55)?).abs() < 1e-5);
    assert!((score(9, 4)? - score(9, 5)?).abs() > 1e-3);
    Ok(())
}

#[test]
fn operands_that_do_not_fit() -> Result<()> {
    let table = RopeTable::new(&[1., 0.5], 4, 1., &Device::Cpu)?;
    let (x, narrow) = (random(&[2, 8], 1)?, random(&[2, 6], 2)?);
    assert!(matches!(rope::forward(&x, &x, &table, &[0, 4]), Err(Error::Shape { op: "rope", .. })));
    assert!(matches!(rope::forward(&x, &x, &table, &[0]), Err(Error::Shape { .. })));
    assert!(matches!(rope::backward(&x, &narrow, &table, &[0, 1]), Err(Error::Shape { .. })));
    assert!(matches!(RopeTable::new(&[], 4, 1., &Device::Cpu), Err(Error::Shape { .. })));
    Ok(())
}
