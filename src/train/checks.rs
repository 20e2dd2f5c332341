//! What must be true of a run's first steps; where it is not, the run stops rather than train nothing for hours.

use crate::model::Parameters;
use crate::{Error, Result};
use candle_core::Tensor;

/// Watches until each trained parameter has received a gradient that is not zero.
///
/// LoRA's B starts at zero, so A's gradient is zero until B has moved, which takes one step with a learning rate above
/// zero; and the first step of a warm-up has learning rate zero.
#[derive(Debug)]
pub struct GradientCheck {
    silent: Vec<usize>,
    updates: usize,
}

/// Steps that changed the parameters, after which no gradient may still be zero.
const PATIENCE: usize = 3;

impl GradientCheck {
    /// A check of all `parameters`.
    pub fn new(parameters: &Parameters) -> Self {
        Self { silent: (0..parameters.len()).collect(), updates: 0 }
    }

    /// Takes the gradients of a step that is about to be made with `learning_rate`.
    ///
    /// Errors: [`Error::Numeric`] naming a parameter that has had no gradient for too long.
    pub fn step(&mut self, parameters: &Parameters, gradients: &[Tensor], learning_rate: f64) -> Result<()> {
        if self.silent.is_empty() {
            return Ok(());
        }
        let mut still = Vec::new();
        for &index in &self.silent {
            if gradients[index].abs()?.max_all()?.to_scalar::<f32>()? == 0.0 {
                still.push(index);
            }
        }
        self.silent = still;
        if let (Some(&index), true) = (self.silent.first(), self.updates >= PATIENCE) {
            let name = parameters.iter().nth(index).map_or("", |p| p.name.as_str());
            return Err(Error::Numeric {
                what: format!("`{name}` and {} other parameters received no gradient", self.silent.len() - 1),
                hint: "Nothing would be learned there. Check that the data trains at least one token per example, and \
                       that the initial adapter is not all zeros."
                    .into(),
            });
        }
        if learning_rate > 0.0 {
            self.updates += 1;
        }
        Ok(())
    }
}

/// Stops a run whose numbers left the range in which it can go on.
///
/// Errors: [`Error::Numeric`] when `value`, called `what`, is not finite in `step`.
pub fn finite(what: &str, value: f64, step: usize) -> Result<()> {
    if value.is_finite() {
        return Ok(());
    }
    Err(Error::Numeric {
        what: format!("the {what} of step {step} is {value}"),
        hint: "Lower `learning_rate` or `max_grad_norm`, look at the data of this step, or go on from an earlier \
               checkpoint."
            .into(),
    })
}
