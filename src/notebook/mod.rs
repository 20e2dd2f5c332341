//! What a notebook's cells call: a run in four steps, each shown while it lasts and stopped by an interrupt.
//!
//! ```no_run
//! use ferrotune::notebook::{evaluate, prepare, read, train};
//! use ferrotune::train::RunConfig;
//!
//! let config = RunConfig { data: "train.jsonl".into(), output_dir: "runs/first".into(), ..RunConfig::default() };
//! let mut session = prepare(config)?;
//! let training = train(&mut session)?;
//! let evaluation = evaluate(&session, &read("test.jsonl", 20)?)?;
//! # Ok::<(), ferrotune::Error>(())
//! ```

mod model;
mod training;

use crate::data::{self, Record, Template};
use crate::evaluate::{self, Evaluation};
use crate::hub::Transfer;
use crate::show::{Progress, Table};
use crate::train::{RunConfig, Session};
use crate::{Result, device, hub, interrupt};

pub use model::{Model, load};
pub use training::{Training, train};

/// The longest answer, in tokens; the orders' are at most 67.
const MAX_NEW_TOKENS: usize = 80;
const BATCH_SIZE: usize = 50;
/// Characters of an answer in a table; no right answer is longer.
const LONGEST_CELL: usize = 240;

/// Finds the model and the data that `config` names, and loads them.
///
/// Errors: those of [`hub::session`]; `output_dir` holds another run.
pub fn prepare(config: RunConfig) -> Result<Session> {
    config.check_output_dir()?;
    device::on_pool(|| {
        let device = device::choose(device::Wanted::Auto)?.device;
        let mut bar = Progress::new(0, "loading the model");
        let session = hub::session(config, device, &mut told(), &mut (), |done, all| {
            bar.total(all as u64);
            bar.set(done as u64);
        });
        bar.finish();
        session
    })
}

/// The first `n` records of a data set.
///
/// Errors: those of [`hub::resolve_data`] and [`data::load`].
pub fn read(name: &str, n: usize) -> Result<Vec<Record>> {
    let mut records = data::load(&hub::resolve_data(name, &mut told())?)?;
    records.truncate(n);
    Ok(records)
}

/// Shows what a transfer tells: sentences as lines, bytes as a bar.
fn told() -> impl FnMut(Transfer) {
    let mut bar = None;
    move |transfer| match transfer {
        Transfer::Note(note) => println!("{note}"),
        Transfer::Bytes { done, all } => {
            let bar: &mut Progress = bar.get_or_insert_with(|| Progress::new(all, "bytes"));
            bar.total(all);
            bar.set(done);
        }
    }
}

/// Lets the model as it stands answer every record. After an interrupt, what is finished is scored, and `interrupted` set.
///
/// Errors: those of [`evaluate::answers`].
pub fn evaluate(session: &Session, records: &[Record]) -> Result<Evaluation> {
    interrupt::begin();
    evaluate_as(session, &session.template, records)
}

/// [`evaluate`], asked in a template that need not be the one of the training.
pub(crate) fn evaluate_as(session: &Session, template: &Template, records: &[Record]) -> Result<Evaluation> {
    device::on_pool(|| {
        let config = evaluate::greedy(&session.pretrained, MAX_NEW_TOKENS, BATCH_SIZE);
        let mut bar = Progress::new(records.len() as u64, "answers");
        let Session { decoder, pretrained, .. } = session;
        let on_progress = &mut |done: usize, _| bar.set(done as u64);
        evaluate::answers(decoder, pretrained, template, records, &config, on_progress, &interrupt::asked)
    })
}

/// What the model as it stands answers to `input`, under the instruction that its data shares.
///
/// Errors: those of [`evaluate`].
pub fn answer(session: &Session, input: &str) -> Result<String> {
    let instruction = session.instruction.clone().unwrap_or_default();
    let record = Record { instruction, input: input.into(), ..Record::default() };
    let evaluation = evaluate(session, &[record])?;
    Ok(evaluation.examples.into_iter().next().map_or_else(String::new, |scored| scored.answer))
}

/// Answers before and after a training, side by side: the records that both evaluations finished.
pub fn compare(records: &[Record], before: &Evaluation, after: &Evaluation) -> Table {
    let mut table = Table::new(["order", "before", "after", "right"]).limit(0, 40).limit(1, 40).limit(2, 60);
    for new in &after.examples {
        let old = before.examples.iter().find(|old| old.index == new.index);
        if let (Some(old), Some(record)) = (old, records.get(new.index)) {
            let right = if new.exact_match { "✓" } else { "✗" };
            let [input, old, new] = [&record.input, &old.answer, &new.answer].map(|text| on_one_line(text));
            table.row([input.as_str(), &old, &new, right]);
        }
    }
    table
}

/// A text with single spaces and without its end, if it is long: an untrained model fills a page with empty lines.
fn on_one_line(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LONGEST_CELL) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// The scores of evaluations under their names.
pub fn scores(evaluations: &[(&str, &Evaluation)]) -> Table {
    let mut table = Table::new(["", "exact match", "valid JSON", "orders"]).right(1).right(2).right(3);
    for (name, evaluation) in evaluations {
        let scores = evaluation.scores;
        let [exact, valid] = [scores.exact_match, scores.valid_json].map(|rate| format!("{:.0}%", 100.0 * rate));
        table.row([(*name).to_owned(), exact, valid, scores.n.to_string()]);
    }
    table
}

/// The rates of exactly right answers under the evaluations' names, with their 95 % intervals (see [`evaluate::wilson`]).
pub fn intervals(evaluations: &[(&str, &Evaluation)]) -> Table {
    let mut table = Table::new(["", "exact match", "low", "high", "orders"]).numeric();
    for (name, evaluation) in evaluations {
        let n = evaluation.examples.len();
        let (low, high) = evaluate::wilson(n - evaluation.failures().count(), n);
        let [rate, low, high] = [evaluation.scores.exact_match, low, high].map(|rate| format!("{:.0}%", 100.0 * rate));
        table.row([(*name).to_owned(), rate, low, high, n.to_string()]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::score;
    use crate::generate::Finish;

    #[test]
    fn only_what_both_finished_is_compared() {
        let record = |input: &str| Record {
            instruction: "i".into(),
            input: input.into(),
            output: "{}".into(),
            ..Record::default()
        };
        let records = [record("a"), record("b")];
        let answer = |index, text| score(index, "{}", text, Finish::Stop);
        let before = Evaluation::new(vec![answer(0, "no"), answer(1, "no")], false);
        let after = Evaluation::new(vec![answer(1, "{}")], true);
        let text = compare(&records, &before, &after).to_text();
        assert!(text.lines().nth(2).is_some_and(|line| line.starts_with("b ") && line.ends_with('✓')), "{text}");
        assert_eq!(text.lines().count(), 3, "{text}");
        assert_eq!(on_one_line(" a\n\n```\tb "), "a ``` b");
        assert_eq!(on_one_line(&"é ".repeat(200)).chars().count(), LONGEST_CELL + 1);
        let text = scores(&[("before", &before), ("after", &after)]).to_text();
        assert!(text.contains("0%") && text.contains("100%"), "{text}");
    }

    #[test]
    fn a_rate_has_an_interval_that_narrows_with_the_examples() {
        let right = |index| score(index, "{}", if index % 2 == 0 { "{}" } else { "no" }, Finish::Stop);
        let [few, many] = [20, 240].map(|n| Evaluation::new((0..n).map(right).collect(), false));
        let nothing = Evaluation::new(Vec::new(), true);
        let text = intervals(&[("few", &few), ("many", &many), ("nothing", &nothing)]).to_text();
        let rows: Vec<Vec<&str>> = text.lines().skip(2).map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[0], ["few", "50%", "30%", "70%", "20"]);
        assert_eq!(rows[1], ["many", "50%", "44%", "56%", "240"]);
        assert_eq!(rows[2], ["nothing", "0%", "0%", "100%", "0"]);
    }
}
