//! Learning-rate schedules, as transformers computes them.
//!
//! With `s` the optimizer step counted from 0, `w` the warm-up steps and `n` all steps, the configured rate is
//! multiplied by
//!
//! - `s / max(1, w)` while `s < w` (so the very first warm-up step has rate 0), then
//! - cosine: `max(0, (1 + cos(π·p)) / 2)` with `p = (s - w) / max(1, n - w)`
//! - linear: `max(0, (n - s) / max(1, n - w))`
//! - constant, constant with warm-up: `1` (`constant` has no warm-up at all).
//!
//! Source: transformers `optimization.py`; `w = ceil(warmup_ratio · n)` from its `TrainingArguments.get_warmup_steps`.

use serde::{Deserialize, Serialize};

/// `lr_scheduler_type`: how the learning rate goes on after warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SchedulerType {
    #[default]
    Cosine,
    Linear,
    Constant,
    ConstantWithWarmup,
}

/// The learning-rate factor of every optimizer step of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    kind: SchedulerType,
    warmup_steps: usize,
    total_steps: usize,
}

impl Schedule {
    /// A schedule over `total_steps` optimizer steps, of which `ceil(warmup_ratio · total_steps)` warm up.
    ///
    /// `warmup_ratio` lies between 0 and 1; what is outside counts as the nearer end.
    ///
    /// ```
    /// use ferrotune::train::schedule::{Schedule, SchedulerType};
    /// let schedule = Schedule::new(SchedulerType::Linear, 0.2, 10);
    /// assert_eq!(schedule.warmup_steps(), 2);
    /// assert_eq!((schedule.factor(0), schedule.factor(1), schedule.factor(6)), (0.0, 0.5, 0.5));
    /// ```
    pub fn new(kind: SchedulerType, warmup_ratio: f64, total_steps: usize) -> Self {
        let warmup_steps = (warmup_ratio.clamp(0.0, 1.0) * total_steps as f64).ceil() as usize;
        Self { kind, warmup_steps, total_steps }
    }

    /// The number of steps that warm up (counted for `constant` too, which ignores them).
    pub fn warmup_steps(&self) -> usize {
        self.warmup_steps
    }

    /// What the configured learning rate is multiplied by in optimizer step `step`, counted from 0.
    pub fn factor(&self, step: usize) -> f64 {
        if self.kind == SchedulerType::Constant {
            return 1.0;
        }
        if step < self.warmup_steps {
            return step as f64 / self.warmup_steps as f64;
        }
        let after_warmup = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        match self.kind {
            SchedulerType::Cosine => {
                let progress = (step - self.warmup_steps) as f64 / after_warmup;
                (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0)
            }
            SchedulerType::Linear => self.total_steps.saturating_sub(step) as f64 / after_warmup,
            SchedulerType::Constant | SchedulerType::ConstantWithWarmup => 1.0,
        }
    }
}
