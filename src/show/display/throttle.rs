//! How often a display may change.

use std::time::{Duration, Instant};

/// Lets at most one through in each stretch of time.
#[derive(Debug)]
pub(in crate::show) struct Throttle {
    every: Duration,
    next: Option<Instant>,
}

impl Throttle {
    pub(in crate::show) fn new(every: Duration) -> Self {
        Self { every, next: None }
    }

    /// Whether one is due at `now`; if so, it counts as let through.
    pub(in crate::show) fn due(&mut self, now: Instant) -> bool {
        let due = self.next.is_none_or(|next| now >= next);
        if due {
            self.next = Some(now + self.every);
        }
        due
    }

    /// Puts the next one off so that what took `cost` takes up a small part of the time.
    pub(in crate::show) fn spent(&mut self, now: Instant, cost: Duration) {
        const PARTS: u32 = 50;
        self.next = self.next.max(Some(now + cost * PARTS));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_each_stretch() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut throttle = Throttle::new(Duration::from_millis(100));
        let through: Vec<u64> = (0..=300).step_by(10).filter(|ms| throttle.due(at(*ms))).collect();
        assert_eq!(through, [0, 100, 200, 300]);
    }

    #[test]
    fn what_is_dear_comes_seldom() {
        let start = Instant::now();
        let mut throttle = Throttle::new(Duration::from_millis(100));
        assert!(throttle.due(start));
        throttle.spent(start, Duration::from_millis(20));
        assert!(!throttle.due(start + Duration::from_millis(999)));
        assert!(throttle.due(start + Duration::from_millis(1000)));
    }
}
