//! What a way costs: once to set up, and again for each query.
//!
//! ```text
//! money a query   = seconds a query · price of the machine
//! money           = set-up seconds · price of the machine + people's hours · their price + queries · money a query
//! ```
//!
//! The seconds of a query are measured, or follow from its prompt's length by [`Rates`](super::Rates). The number of
//! queries at which two ways cost the same is the *break-even*: extra set-up over what a query saves.

use serde::Serialize;

/// What is assumed of machine and people. All of it can be changed; none of it was measured here.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Assumptions {
    /// Money for an hour of the machine, in US dollars: two cores of a rented server.
    pub machine_hour: f64,
    /// Money for an hour of work, in US dollars.
    pub person_hour: f64,
    /// Hours to write a prompt and try it out.
    pub prompt_hours: f64,
    /// Hours to build the search and to keep its table.
    pub retrieval_hours: f64,
    /// Hours to gather and check examples, and to look at the result of a training.
    pub examples_hours: f64,
}

impl Default for Assumptions {
    fn default() -> Self {
        Self { machine_hour: 0.10, person_hour: 20.0, prompt_hours: 1.0, retrieval_hours: 4.0, examples_hours: 8.0 }
    }
}

/// What one way asks of machine and people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Workload {
    /// Machine's time before the first query: training, building an index.
    pub setup_seconds: f64,
    /// People's time before the first query: writing a prompt, gathering examples.
    pub setup_hours: f64,
    /// Seconds from question to answer, on average.
    pub latency_seconds: f64,
}

/// What a way costs, in US dollars.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Cost {
    pub setup: f64,
    pub query: f64,
}

impl Cost {
    /// The cost of `workload` under `assumptions`.
    ///
    /// ```
    /// use ferrotune::decide::{Assumptions, Cost, Workload};
    ///
    /// let workload = Workload { setup_seconds: 1800.0, latency_seconds: 3.6, ..Workload::default() };
    /// let cost = Cost::new(&workload, &Assumptions { machine_hour: 1.0, ..Assumptions::default() });
    /// assert_eq!((cost.setup, cost.query), (0.5, 0.001));
    /// assert_eq!(cost.of(1000.0), 1.5);
    /// ```
    pub fn new(workload: &Workload, assumptions: &Assumptions) -> Self {
        let machine_second = assumptions.machine_hour / 3600.0;
        Self {
            setup: workload.setup_seconds * machine_second + workload.setup_hours * assumptions.person_hour,
            query: workload.latency_seconds * machine_second,
        }
    }

    /// For so many queries in all.
    pub fn of(&self, queries: f64) -> f64 {
        self.setup + queries * self.query
    }

    /// From how many queries on this way costs less than `other`: 0 if it always does, `None` if it never does.
    pub fn break_even(&self, other: &Self) -> Option<f64> {
        let (extra, saved) = (self.setup - other.setup, other.query - self.query);
        match (extra <= 0.0, saved > 0.0) {
            (true, true) => Some(0.0),
            (false, true) => Some(extra / saved),
            // Cheaper to set up and dearer to ask: it loses its lead.
            (true, false) => (extra < 0.0 && saved == 0.0).then_some(0.0),
            (false, false) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dearer_to_set_up_and_cheaper_to_ask_breaks_even() {
        let (prompt, trained) = (Cost { setup: 1.0, query: 0.01 }, Cost { setup: 11.0, query: 0.005 });
        let queries = trained.break_even(&prompt).unwrap();
        assert!((queries - 2000.0).abs() < 1e-6);
        assert!((trained.of(queries) - prompt.of(queries)).abs() < 1e-9);
        assert_eq!(prompt.break_even(&trained), None, "it is ahead at first only");
        let better = Cost { setup: 0.5, query: 0.001 };
        assert_eq!(better.break_even(&prompt), Some(0.0));
        assert_eq!(prompt.break_even(&better), None);
        assert_eq!(prompt.break_even(&prompt), None);
    }
}
