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

/// Watches for a loss that has run away, as it does under a learning rate that is far too high: the run would go on for hours
/// and never come back.
///
/// The moving average of the loss is held against the mean of the first two steps, before which nothing has been learned or
/// ruined. Where it stays above `2 · first + 2` nats, the run stops; a loss that is small to begin with may rise by two nats
/// without harm.
#[derive(Debug, Default)]
pub struct DivergenceCheck {
    /// The mean loss of the first steps.
    first: f64,
    /// How many of them were seen.
    seen: usize,
    average: f64,
    /// Steps in a row that the average was too high.
    above: usize,
}

/// Steps whose mean is where a run begins.
const FIRST: usize = 2;
/// Steps that the moving average spans.
const SPAN: f64 = 10.0;
/// Steps in a row after which a loss that is too high is taken for lost.
const LOST: usize = 10;

impl DivergenceCheck {
    /// Takes the loss of `step`, in nats.
    ///
    /// Errors: [`Error::Numeric`] where the loss has been too high for too long.
    pub fn step(&mut self, loss: f64, step: usize) -> Result<()> {
        if self.seen < FIRST {
            self.seen += 1;
            self.first += (loss - self.first) / self.seen as f64;
            self.average = self.first;
            return Ok(());
        }
        let first = self.first;
        self.average += 2.0 / (SPAN + 1.0) * (loss - self.average);
        self.above = if self.average > 2.0 * first + 2.0 { self.above + 1 } else { 0 };
        if self.above < LOST {
            return Ok(());
        }
        Err(Error::Numeric {
            what: format!("the loss has run away: {first:.2} at the start, {:.2} around step {step}", self.average),
            hint:
                "Lower `learning_rate`, raise `warmup_ratio`, or set `max_grad_norm`; checkpoints from before are kept."
                    .into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stops_at(losses: impl IntoIterator<Item = f64>) -> Option<usize> {
        let mut check = DivergenceCheck::default();
        losses.into_iter().enumerate().find_map(|(step, loss)| check.step(loss, step).err().map(|_| step))
    }

    #[test]
    fn a_loss_that_stays_high_is_stopped_and_one_that_comes_back_is_not() {
        let falling = (0..100).map(|step| 2.0 * 0.97f64.powi(step));
        assert_eq!(stops_at(falling), None);
        let peak = (0..100).map(|step| if (20..23).contains(&step) { 9.0 } else { 1.5 });
        assert_eq!(stops_at(peak), None);
        let small = (0..100).map(|step| if step % 2 == 0 { 0.02 } else { 0.9 });
        assert_eq!(stops_at(small), None);
        let runaway = (0..100).map(|step| if step < 20 { 2.0 } else { 8.0 });
        assert!(stops_at(runaway).is_some_and(|step| (30..45).contains(&step)));
        // From a training at a rate of 0.05: a peak in the first steps must not pass for the beginning.
        let from_the_start =
            [3.0, 3.2, 4.0, 24.3, 44.1, 49.4, 39.2, 26.4, 29.0, 18.1, 13.8, 14.7, 13.9, 11.6, 10.9, 10.5];
        assert!(stops_at(from_the_start).is_some());
    }
}
