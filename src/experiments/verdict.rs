//! What numbers from a few seeds allow to be said.

use super::Group;
use crate::evaluate;

/// What becomes of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every pair of seeds says so.
    Holds,
    /// Every pair of seeds says the contrary.
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

/// The lowest and the highest of some values as a table has them, `0.142–0.150`; a dash where there are none.
pub(super) fn spread(values: &[f64], shown: impl Fn(f64) -> String) -> String {
    let (low, high) = range(values);
    if values.is_empty() { "-".into() } else { format!("{}–{}", shown(low), shown(high)) }
}

/// A share as a table has it.
pub(super) fn percent(share: f64) -> String {
    format!("{:.0}%", 100.0 * share)
}

/// Their mean, if there are any.
pub(super) fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// For claims about answers: the bounds of each share of right answers in the group called `name`, at 95% confidence. A few
/// dozen orders leave a share uncertain beyond what seeds show.
pub(super) fn intervals(groups: &[Group], name: &str) -> Vec<f64> {
    let bounds = |arm: &super::Arm| {
        let hits = (arm.exact_match? * arm.answers as f64).round() as usize;
        let (low, high) = evaluate::wilson(hits, arm.answers);
        Some([low, high])
    };
    let group = groups.iter().filter(|group| group.name == name);
    group.flat_map(|group| group.arms.iter().filter_map(bounds).flatten()).collect()
}

/// A number of each arm of the group called `name`; of arms that have it.
pub(super) fn values(groups: &[Group], name: &str, of: impl Fn(&super::Arm) -> Option<f64>) -> Vec<f64> {
    groups.iter().filter(|group| group.name == name).flat_map(|group| group.arms.iter().filter_map(&of)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::sweep::{Arm, arm};
    use super::*;

    #[test]
    fn few_answers_leave_more_open_than_many() {
        let group = |name: &str, share, answers| {
            let arm = Arm { exact_match: Some(share), answers, ..arm(name, 0.0) };
            Group { name: name.into(), arms: vec![arm], mean: 0.0 }
        };
        let verdict = |n| {
            let groups = [group("a", 0.2, n), group("b", 0.35, n)];
            Verdict::less(&intervals(&groups, "a"), &intervals(&groups, "b"))
        };
        assert_eq!((verdict(60), verdict(240)), (Verdict::Open, Verdict::Holds));
        assert_eq!(intervals(&[group("a", 0.2, 60)], "b"), Vec::<f64>::new());
    }

    #[test]
    fn ranges_that_touch_leave_a_claim_open() {
        assert_eq!(Verdict::less(&[1.0, 2.0], &[3.0, 4.0]), Verdict::Holds);
        assert_eq!(Verdict::less(&[5.0, 6.0], &[3.0, 4.0]), Verdict::Fails);
        assert_eq!(Verdict::less(&[1.0, 3.5], &[3.0, 4.0]), Verdict::Open);
        assert_eq!(Verdict::less(&[1.0], &[1.0]), Verdict::Open);
        assert_eq!(Verdict::less(&[], &[1.0]), Verdict::Open);
    }
}
