//! `rms_norm`.

use super::{Case, Computed, check, random};
use ferrotune::candle_core::{D, Tensor};
use ferrotune::ops::rms_norm::{self, Saved, portable};
use ferrotune::{Error, Result};

/// Rows, width, epsilon.
#[derive(Debug)]
struct Norm(usize, usize, f64);

/// Widths around the number of vector lanes, rows around that of a task.
const CASES: &[Norm] = &[
    Norm(1, 1, 1e-5),
    Norm(1, 2, 1e-6),
    Norm(2, 7, 1e-5),
    Norm(5, 32, 1.),
    Norm(31, 33, 1e-5),
    Norm(32, 64, 1e-5),
    Norm(33, 96, 0.),
    Norm(100, 257, 1e-5),
    Norm(3, 576, 1e-5),
];

impl Case for Norm {
    fn shapes(&self) -> Vec<Vec<usize>> {
        vec![vec![self.0, self.1], vec![self.1]]
    }

    fn roundings(&self) -> f64 {
        8. + (self.0 as f64).sqrt()
    }

    fn terms(&self) -> f64 {
        1.
    }

    fn reference(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        let [x, w] = inputs else { unreachable!() };
        let root = (x.sqr()?.mean_keepdim(D::Minus1)? + self.2)?.sqrt()?;
        Ok(vec![x.broadcast_div(&root)?.broadcast_mul(w)?])
    }

    fn op(&self, inputs: &[Tensor], dys: &[Tensor]) -> Computed {
        self.run(inputs, dys, rms_norm::forward, rms_norm::backward)
    }

    fn portable(&self, inputs: &[Tensor], dys: &[Tensor]) -> Computed {
        self.run(inputs, dys, portable::forward, portable::backward)
    }

    fn apply(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        Ok(vec![rms_norm::apply(&inputs[0], &inputs[1], self.2)?])
    }
}

type Forward = fn(&Tensor, &Tensor, f64) -> Result<(Tensor, Saved)>;
type Backward = fn(&Tensor, &Tensor, &Saved, &Tensor, bool) -> Result<(Tensor, Option<Tensor>)>;

impl Norm {
    fn run(&self, inputs: &[Tensor], dys: &[Tensor], forward: Forward, backward: Backward) -> Computed {
        let [x, w] = inputs else { unreachable!() };
        let (y, saved) = forward(x, w, self.2)?;
        let (dx, dw) = backward(x, w, &saved, &dys[0], true)?;
        let (alone, none) = backward(x, w, &saved, &dys[0], false)?;
        assert!(none.is_none(), "{self:?}: a gradient of w that nobody asked for");
        assert_eq!(super::f64s(&dx), super::f64s(&alone), "{self:?}: dx depends on whether dw is wanted");
        Ok((vec![y], [Some(dx), dw].into_iter().flatten().collect()))
    }
}

#[test]
fn every_form_agrees() -> Result<()> {
    CASES.iter().try_for_each(|case| check(case))
}

#[test]
fn other_layouts_give_the_same() -> Result<()> {
    let (x, w) = (random(&[5, 6], 1)?, random(&[6], 2)?);
    let transposed = x.t()?.contiguous()?.t()?;
    assert!(!transposed.is_contiguous());
    let [(a, _), (b, _)] = [rms_norm::forward(&x, &w, 1e-5)?, rms_norm::forward(&transposed, &w, 1e-5)?];
    super::close("transposed", &b, &a, 4. * f64::from(f32::EPSILON), 0.);
    Ok(())
}

#[test]
fn nan_stays_visible() -> Result<()> {
    let x = Tensor::new(&[[f32::NAN, 1.], [1., 1.]], &ferrotune::candle_core::Device::Cpu)?;
    let (y, _) = rms_norm::forward(&x, &random(&[2], 1)?, 1e-5)?;
    let y = y.to_vec2::<f32>()?;
    assert!(y[0][0].is_nan() && y[0][1].is_nan() && y[1][0].is_finite());
    Ok(())
}

#[test]
fn operands_that_do_not_fit() -> Result<()> {
    let (x, w) = (random(&[2, 3], 1)?, random(&[4], 2)?);
    assert!(matches!(rms_norm::forward(&x, &w, 0.), Err(Error::Shape { op: "rms_norm", .. })));
    let w = random(&[3], 2)?;
    let (_, saved) = rms_norm::forward(&x, &w, 0.)?;
    let dy = random(&[3, 3], 3)?;
    assert!(matches!(rms_norm::backward(&x, &w, &saved, &dy, false), Err(Error::Shape { .. })));
    Ok(())
}
