//! What a `metrics.jsonl` says, read back.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::train::metrics::METRICS_FILE;
use crate::{Error, Result};

/// A row as it may stand in a file: every number but `step` can be absent, or null where it was not finite.
#[derive(Deserialize)]
struct Row {
    step: u32,
    loss: Option<f64>,
    learning_rate: Option<f64>,
    num_tokens: Option<u64>,
    eval_loss: Option<f64>,
}

/// The numbers of a run by step. A step that stands twice counts once, as its last row has it.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    pub(super) loss: BTreeMap<u32, f64>,
    pub(super) learning_rate: BTreeMap<u32, f64>,
    pub(super) eval_loss: BTreeMap<u32, f64>,
    tokens: BTreeMap<u32, u64>,
}

impl Metrics {
    /// Reads the text of a `metrics.jsonl`.
    ///
    /// Errors: [`Error::Data`] with the line that is no row. A last line without its end is left out instead: that is
    /// what a process killed while it wrote leaves behind.
    pub(super) fn read(text: &str) -> Result<Self> {
        let mut metrics = Self::default();
        for (index, line) in text.split_inclusive('\n').enumerate() {
            if line.trim().is_empty() {
                continue;
            }
            match serde_json::from_str(line) {
                Ok(row) => metrics.insert(row),
                Err(_) if !line.ends_with('\n') => {}
                Err(error) => {
                    let place = format!("`{METRICS_FILE}`, line {}", index + 1);
                    let what = format!("a line of metrics cannot be read ({error})");
                    let hint = "Each line is one JSON object with a whole number `step`; remove the line.";
                    return Err(Error::data(place, what, hint));
                }
            }
        }
        Ok(metrics)
    }

    fn insert(&mut self, row: Row) {
        // A plot's range has to be a number too: with an infinite one, plotters looks for ticks forever.
        let usable = |value: Option<f64>| value.filter(|v| v.abs() < 1e30);
        let put = |into: &mut BTreeMap<u32, f64>, value| {
            if let Some(value) = usable(value) {
                into.insert(row.step, value);
            }
        };
        put(&mut self.loss, row.loss);
        put(&mut self.learning_rate, row.learning_rate);
        put(&mut self.eval_loss, row.eval_loss);
        if let Some(tokens) = row.num_tokens {
            self.tokens.insert(row.step, tokens);
        }
    }
}

/// The last steps that [`Summary::train_loss`] is the mean of.
const LAST: usize = 10;

/// What a run came to, all processes that worked on it together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// Non-padding tokens of all steps.
    pub tokens: u64,
    /// Mean of the last ten steps' losses, in nats per trained token: a single step's depends on its rows too much.
    pub train_loss: Option<f64>,
    /// The last evaluation's loss, in nats per trained token.
    pub eval_loss: Option<f64>,
}

/// Sums up the text of a `metrics.jsonl`.
///
/// Errors: [`Error::Data`] with the line that is no row.
///
/// ```
/// let summary = ferrotune::show::summarize("{\"step\": 1, \"loss\": 2.5, \"num_tokens\": 40}\n")?;
/// assert_eq!((summary.tokens, summary.train_loss, summary.eval_loss), (40, Some(2.5), None));
/// # Ok::<(), ferrotune::Error>(())
/// ```
pub fn summarize(metrics: &str) -> Result<Summary> {
    let metrics = Metrics::read(metrics)?;
    let last: Vec<f64> = metrics.loss.values().rev().take(LAST).copied().collect();
    Ok(Summary {
        tokens: metrics.tokens.values().sum(),
        train_loss: (!last.is_empty()).then(|| last.iter().sum::<f64>() / last.len() as f64),
        eval_loss: metrics.eval_loss.values().next_back().copied(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_up_the_last_steps_and_the_last_evaluation() {
        let mut text: String =
            (1..=12).map(|s| format!("{{\"step\":{s},\"loss\":{}.0,\"num_tokens\":100}}\n", 20 - s)).collect();
        text += "{\"step\":6,\"eval_loss\":9.0}\n{\"step\":12,\"eval_loss\":7.5}\n";
        let summary = summarize(&text).unwrap();
        // Steps 3 to 12 have the losses 17 to 8.
        assert_eq!(summary, Summary { tokens: 1200, train_loss: Some(12.5), eval_loss: Some(7.5) });
        assert_eq!(summarize("").unwrap(), Summary::default());
    }

    #[test]
    fn a_repeated_step_counts_once_and_null_is_left_out() {
        let text = "{\"step\":1,\"loss\":4.0,\"num_tokens\":5}\n{\"step\":1,\"loss\":3.0,\"num_tokens\":5}\n\
                    {\"step\":2,\"loss\":null,\"num_tokens\":5}\n{\"step\":3,\"loss\":1e300,\"num_tokens\":5}\n";
        let summary = summarize(text).unwrap();
        assert_eq!(summary, Summary { tokens: 15, train_loss: Some(3.0), eval_loss: None });
    }

    #[test]
    fn names_a_broken_line_but_forgives_a_cut_last_one() {
        let error = Metrics::read("{\"step\":1,\"loss\":1.0}\n{\"loss\":2}\n").unwrap_err().to_string();
        assert!(error.contains("`metrics.jsonl`, line 2") && error.contains("step"), "{error}");
        assert_eq!(Metrics::read("{\"step\":1,\"loss\":1.0}\n{\"st").unwrap().loss.len(), 1);
    }
}
