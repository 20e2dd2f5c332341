//! Are a hundred good examples worth more than a thousand of which some are wrong?

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use super::bench::write_data;
use super::verdict::{intervals, mean, percent, spread, values};
use super::{Bench, Claim, Judge, Picture, Report, Sweep, Trial};
use crate::Result;
use crate::data::Record;
use crate::show::{Bars, Table};

/// Lines of a large set, of a small one, and of one that is copied until it is as long as the large one.
const LARGE: usize = 1000;
const SMALL: usize = 100;
const COPIED: usize = 50;
/// The share of answers that belong to other orders.
const WRONG: f64 = 0.3;

const ARMS: [&str; 4] = ["100 clean", "1000 clean", "1000, 30% wrong", "1000 lines, 50 distinct"];

/// Trains on a hundred clean orders, a thousand, a thousand of which three in ten have the answer of another order, and
/// fifty that were copied to a thousand lines, all for the same number of steps. Arms are called `100 clean, seed 0`.
///
/// Errors: those of [`Sweep::run`]; [`Error::Data`](crate::Error::Data) for fewer than a thousand orders.
pub fn data_quality(bench: &Bench, live: &str) -> Result<Report> {
    let records = bench.train(LARGE)?;
    let copies = records[..COPIED].iter().cycle().take(LARGE).cloned().collect();
    let sets = [records[..SMALL].to_vec(), records.clone(), mislabelled(&records, WRONG), copies];
    let judge = Judge { orders: bench.test()?, ..Judge::default() };
    let mut trials = Vec::new();
    for (i, (name, set)) in ARMS.into_iter().zip(&sets).enumerate() {
        let data = write_data(&bench.runs.join(format!("quality-{i}.jsonl")), set)?;
        trials.extend(Trial::seeds(bench, name, &judge, |seed| {
            let mut config = bench.config(3 * bench.steps, seed);
            config.data.clone_from(&data);
            config
        }));
    }
    Ok(report(Sweep::run(bench, live, trials)?))
}

/// `share` of the records get the answer of another one of them.
fn mislabelled(records: &[Record], share: f64) -> Vec<Record> {
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(0);
    let mut wrong: Vec<usize> = (0..records.len()).filter(|_| random.random_bool(share)).collect();
    wrong.shuffle(&mut random);
    let mut set = records.to_vec();
    for (i, at) in wrong.iter().enumerate() {
        // Each takes the answer of the next one in a random circle.
        set[*at].output.clone_from(&records[wrong[(i + 1) % wrong.len()]].output);
    }
    set
}

fn report(sweep: Sweep) -> Report {
    let groups = sweep.groups();
    let mut table = Table::new(["arm", "exactly right", "of each seed", "bounds", "loss"]).numeric();
    let mut means = Vec::new();
    for group in &groups {
        let shares = values(&groups, &group.name, |arm| arm.exact_match);
        let mean = mean(&shares).unwrap_or(0.0);
        let each = shares.iter().map(|share| percent(*share)).collect::<Vec<_>>().join(", ");
        let bounds = spread(&intervals(&groups, &group.name), percent);
        table.row([group.name.clone(), percent(mean), each, bounds, format!("{:.3}", group.mean)]);
        means.push(100.0 * mean);
    }
    let bars = Bars::new("Right answers by training data, at equal steps", ARMS)
        .y("exactly right (%)")
        .bar("mean of the seeds", means);
    let [small, large, noisy, copied] = ARMS.map(|name| intervals(&groups, name));
    let verdicts = vec![
        Claim::less("100 clean orders beat 1000 of which 30% are wrong", &noisy, &small),
        Claim::less("1000 clean orders beat 1000 of which 30% are wrong", &noisy, &large),
        Claim::less("1000 clean orders beat 100 clean ones", &small, &large),
        Claim::less("1000 lines of 50 orders are worse than 100 distinct ones", &copied, &small),
    ];
    Report { table, picture: Picture::Bars(bars), verdicts, sweep }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::orders::{Split, generate};

    #[test]
    fn three_in_ten_have_the_answer_of_another() {
        let records = generate(1, Split::Train, 400);
        let wrong = mislabelled(&records, WRONG);
        assert_eq!(wrong, mislabelled(&records, WRONG), "the same each time");
        assert!(records.iter().zip(&wrong).all(|(a, b)| a.input == b.input));
        let changed = records.iter().zip(&wrong).filter(|(a, b)| a.output != b.output).count();
        // Some orders have equal answers.
        assert!((80..=160).contains(&changed), "{changed}");
        let mut outputs = [&records, &wrong].map(|set| set.iter().map(|r| r.output.clone()).collect::<Vec<_>>());
        outputs.iter_mut().for_each(|set| set.sort());
        assert_eq!(outputs[0], outputs[1], "the answers are the same ones");
    }
}
