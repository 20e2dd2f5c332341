//! The decision framework's table: what was measured of each approach, and what it costs.

use super::{Bars, Table};
use crate::decide::{Assumptions, Cost, Measured, Rates, Workload};

/// How right the approaches are and what they are given: a row a measure, a column an approach.
pub fn comparison(measured: &[Measured]) -> Table {
    let percent = |rate: f64| format!("{:.0}%", 100.0 * rate);
    rows(
        measured,
        &[
            ("exact match", &|m| percent(m.before.exact_match)),
            ("valid JSON", &|m| percent(m.before.valid_json)),
            ("right price", &|m| percent(m.before.right_price)),
            ("right price, menu changed", &|m| percent(m.after.right_price)),
            ("examples", &|m| m.examples.to_string()),
            ("tokens a prompt", &|m| format!("{:.0}", m.prompt_tokens)),
        ],
    )
}

/// What the approaches take in seconds, as measured, and in money, as assumed.
pub fn costs(measured: &[Measured], assumptions: &Assumptions) -> Table {
    let cost = |m: &Measured| Cost::new(&m.workload(assumptions), assumptions);
    let setup_seconds = |m: &Measured| match m.setup_seconds {
        seconds if seconds < 0.1 => format!("{seconds:.4}"),
        seconds => format!("{seconds:.0}"),
    };
    rows(
        measured,
        &[
            ("seconds an answer", &|m| format!("{:.2}", m.latency_seconds)),
            ("machine's set-up, seconds", &setup_seconds),
            ("set-up, $", &|m| format!("{:.2}", cost(m).setup)),
            ("a million queries, $", &|m| format!("{:.0}", 1e6 * cost(m).query)),
        ],
    )
}

/// What a query costs by the length of its prompt, with an answer of `answer_tokens`, by what the machine reads and writes
/// in a second.
pub fn cost_by_prompt(rates: &Rates, answer_tokens: usize, assumptions: &Assumptions) -> Table {
    let mut table = Table::new(["tokens a prompt", "seconds", "of it the prompt", "a million queries, $"]).numeric();
    for tokens in [50.0, 200.0, 800.0, 3200.0] {
        let seconds = |prompt: f64| rates.seconds(prompt, answer_tokens as f64, 0.0);
        let workload = Workload { latency_seconds: seconds(tokens), ..Workload::default() };
        let share = 1.0 - seconds(0.0) / seconds(tokens);
        table.row([
            format!("{tokens}"),
            format!("{:.2}", seconds(tokens)),
            format!("{:.0}%", 100.0 * share),
            format!("{:.0}", 1e6 * Cost::new(&workload, assumptions).query),
        ]);
    }
    table
}

/// A measure: its name, and its cell for an approach.
type Row<'a> = (&'a str, &'a dyn Fn(&Measured) -> String);

fn rows(measured: &[Measured], rows: &[Row]) -> Table {
    let mut table = Table::new(std::iter::once("").chain(measured.iter().map(|m| m.arm.name()))).numeric();
    for (name, cell) in rows {
        table.row(std::iter::once((*name).to_owned()).chain(measured.iter().map(cell)));
    }
    table
}

/// From how many queries on one of two approaches costs less than the other, as sentences: one for each two that cost
/// differently.
pub fn break_evens(measured: &[Measured], assumptions: &Assumptions) -> Vec<String> {
    let costs: Vec<(&str, Cost)> =
        measured.iter().map(|m| (m.arm.name(), Cost::new(&m.workload(assumptions), assumptions))).collect();
    let mut told = Vec::new();
    for (name, cost) in &costs {
        for (other, rival) in costs.iter().filter(|(other, _)| other != name) {
            if let Some(queries) = cost.break_even(rival) {
                // A search is set up in microseconds, and that is no query's worth.
                let from = match queries {
                    ..=1.0 => "the first query".to_owned(),
                    queries => format!("{} queries", rounded(queries)),
                };
                told.push(format!("{name} costs less than {other} from {from} on"));
            }
        }
    }
    told
}

/// Two digits that count, with separators: a figure that rests on assumptions has no more.
fn rounded(value: f64) -> String {
    let unit = 10f64.powf((value.max(1.0).log10().floor() - 1.0).max(0.0));
    let digits = ((value / unit).ceil() * unit).round().to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().filter_map(|group| str::from_utf8(group).ok()).collect();
    groups.join(",")
}

/// Exact match, and right prices before and after the menu changed.
pub fn comparison_chart(measured: &[Measured]) -> Bars {
    let percent = |of: fn(&Measured) -> f64| measured.iter().map(move |m| 100.0 * of(m));
    Bars::new("One task, five approaches", measured.iter().map(|m| m.arm.name()))
        .y("percent of the orders")
        .bar("exact match", percent(|m| m.before.exact_match))
        .bar("right price", percent(|m| m.before.right_price))
        .bar("right price, menu changed", percent(|m| m.after.right_price))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::Arm;
    use crate::decide::arms::Scores;

    fn measured(arm: Arm, latency_seconds: f64, setup_seconds: f64) -> Measured {
        let before = Scores { exact_match: 0.5, valid_json: 0.75, right_price: 0.25 };
        let (orders, examples, prompt_tokens) = (4, 2, 100.0);
        let after = Scores::default();
        Measured { arm, before, after, orders, examples, prompt_tokens, latency_seconds, setup_seconds }
    }

    #[test]
    fn a_column_is_an_approach() {
        let assumptions = Assumptions { machine_hour: 3.6, ..Assumptions::default() };
        let both = [measured(Arm::FewShot, 2.0, 0.0), measured(Arm::FineTuning, 1.0, 1000.0)];
        let text = comparison(&both).to_text();
        assert!(text.starts_with("                           few-shot  fine-tuned\n"), "{text}");
        assert!(text.contains("right price, menu changed        0%          0%"), "{text}");
        let text = costs(&both, &assumptions).to_text();
        assert!(text.contains("a million queries, $           2000        1000"), "{text}");
        // 20 $ against 160 $ and a dollar of machine; 0.002 $ against 0.001 $ a query.
        let told = break_evens(&both, &assumptions);
        assert_eq!(told, ["fine-tuned costs less than few-shot from 150,000 queries on"]);
        let always = [measured(Arm::ZeroShot, 1.0, 1e-6), measured(Arm::FewShot, 2.0, 0.0)];
        let told = break_evens(&always, &assumptions);
        assert_eq!(told, ["zero-shot costs less than few-shot from the first query on"]);
        let told = break_evens(&[always[1], always[0]], &assumptions);
        assert_eq!(told, ["zero-shot costs less than few-shot from the first query on"]);
        let same = [measured(Arm::ZeroShot, 1.0, 0.0), measured(Arm::FewShot, 1.0, 0.0)];
        assert_eq!(break_evens(&same, &assumptions), [""; 0]);
        assert!(comparison_chart(&both).to_svg().contains("fine-tuned"));
    }

    #[test]
    fn a_longer_prompt_costs_by_what_is_read_in_a_second() {
        let rates = Rates { prompt_tokens_per_second: 1000.0, answer_tokens_per_second: 100.0 };
        let assumptions = Assumptions { machine_hour: 3.6, ..Assumptions::default() };
        let text = cost_by_prompt(&rates, 20, &assumptions).to_text();
        // 0.2 s for the answer, and 0.8 s for 800 tokens before it.
        assert!(text.contains("800                 1.00               80%                  1000"), "{text}");
    }

    #[test]
    fn two_digits_count() {
        assert_eq!(rounded(7.2), "8");
        assert_eq!(rounded(1_234_567.0), "1,300,000");
        assert_eq!(rounded(141_000.0), "150,000");
    }
}
