//! `swiglu`.

use super::{Case, Computed, check, random};
use ferrotune::candle_core::Tensor;
use ferrotune::ops::swiglu::{self, portable};
use ferrotune::{Error, Result};

/// Rows, width, and the factor on the inputs.
#[derive(Debug)]
struct Gate(usize, usize, f64);

/// The last case has more elements than one task takes.
const CASES: &[Gate] = &[Gate(1, 1, 1.), Gate(1, 7, 4.), Gate(3, 33, 16.), Gate(2, 96, 1.), Gate(40, 500, 8.)];

impl Case for Gate {
    fn shapes(&self) -> Vec<Vec<usize>> {
        vec![vec![self.0, self.1]; 2]
    }

    fn spread(&self) -> f64 {
        self.2
    }

    fn roundings(&self) -> f64 {
        // 1 - s loses digits where s is near 1; its product with the gate makes up for it.
        8. + self.2
    }

    fn reference(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        let [gate, up] = inputs else { unreachable!() };
        Ok(vec![(gate.silu()? * up)?])
    }

    fn op(&self, inputs: &[Tensor], dys: &[Tensor]) -> Computed {
        let (dgate, dup) = swiglu::backward(&inputs[0], &inputs[1], &dys[0])?;
        Ok((vec![swiglu::forward(&inputs[0], &inputs[1])?], vec![dgate, dup]))
    }

    fn portable(&self, inputs: &[Tensor], dys: &[Tensor]) -> Computed {
        let (dgate, dup) = portable::backward(&inputs[0], &inputs[1], &dys[0])?;
        Ok((vec![portable::forward(&inputs[0], &inputs[1])?], vec![dgate, dup]))
    }

    fn apply(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        Ok(vec![swiglu::apply(&inputs[0], &inputs[1])?])
    }
}

#[test]
fn every_form_agrees() -> Result<()> {
    CASES.iter().try_for_each(|case| check(case))
}

#[test]
fn far_gates_stay_finite() -> Result<()> {
    let gate = Tensor::new(&[-1e30f32, -100., 100., 1e30], &ferrotune::candle_core::Device::Cpu)?;
    let one = gate.ones_like()?;
    let (dgate, _) = swiglu::backward(&gate, &one, &one)?;
    assert_eq!(dgate.to_vec1::<f32>()?, [0., 0., 1., 1.]);
    let y = swiglu::forward(&gate, &one)?.to_vec1::<f32>()?;
    assert!(y[0] == 0. && y[1].abs() < 1e-40 && y[2..] == [100., 1e30], "{y:?}");
    Ok(())
}

#[test]
fn operands_that_do_not_fit() -> Result<()> {
    let (gate, up) = (random(&[2, 3], 1)?, random(&[3, 2], 2)?);
    assert!(matches!(swiglu::forward(&gate, &up), Err(Error::Shape { op: "swiglu", .. })));
    assert!(matches!(swiglu::backward(&gate, &gate, &up), Err(Error::Shape { .. })));
    Ok(())
}
