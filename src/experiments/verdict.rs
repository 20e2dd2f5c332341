//! What numbers from a few seeds allow to be said.

use super::Group;
use crate::evaluate;

/// What becomes of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every seed says so.
    Holds,
    /// Every seed says the contrary.
    Fails,
    /// The ranges of the seeds overlap.
    Open,
}

impl Verdict {
    /// Whether all of `lower` lies below all of `higher`. With nothing on one side nothing is known.
    pub fn less(lower: &[f64], higher: &[f64]) -> Self {
        let ((low_a, high_a), (low_b, high_b)) = (range(lower), range(higher));
        if lower.is_empty() || higher.is_empty() {
            Self::Open
        } else if high_a < low_b {
            Self::Holds
        } else if low_a > high_b {
            Self::Fails
        } else {
            Self::Open
        }
    }

    /// The word for it in tables.
    pub fn word(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::Fails => "fails",
            Self::Open => "open",
        }
    }
}

/// A sentence that is often heard, and what an experiment says to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    pub text: String,
    pub verdict: Verdict,
}

impl Claim {
    /// `text`, which says that a number of `lower` is below that of `higher`; see [`Verdict::less`].
    pub fn less(text: impl Into<String>, lower: &[f64], higher: &[f64]) -> Self {
        Self { text: text.into(), verdict: Verdict::less(lower, higher) }
    }
}

/// The lowest and the highest of some values.
pub(super) fn range(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(*v), high.max(*v)))
}

/// Their mean, if there are any.
pub(super) fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The range in which a share of `n` answers may lie, at 95% confidence: for claims about answers, which a few dozen orders
/// leave uncertain beyond what seeds show.
pub(super) fn interval(share: f64, n: usize) -> [f64; 2] {
    let (low, high) = evaluate::wilson((share * n as f64).round() as usize, n);
    [low, high]
}

/// A number of each arm of the group called `name`; of arms that have it.
pub(super) fn values(groups: &[Group], name: &str, of: impl Fn(&super::Arm) -> Option<f64>) -> Vec<f64> {
    groups.iter().filter(|group| group.name == name).flat_map(|group| group.arms.iter().filter_map(&of)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_touch_leave_a_claim_open() {
        assert_eq!(Verdict::less(&[1.0, 2.0], &[3.0, 4.0]), Verdict::Holds);
        assert_eq!(Verdict::less(&[5.0, 6.0], &[3.0, 4.0]), Verdict::Fails);
        assert_eq!(Verdict::less(&[1.0, 3.5], &[3.0, 4.0]), Verdict::Open);
        assert_eq!(Verdict::less(&[1.0], &[1.0]), Verdict::Open);
        assert_eq!(Verdict::less(&[], &[1.0]), Verdict::Open);
    }
}
