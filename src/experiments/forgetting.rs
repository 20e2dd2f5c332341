//! What does a model forget while it learns one task, and does LoRA forget less?

use super::bench::write_data;
use super::verdict::{intervals, mean, percent, spread, values};
use super::{Bench, Claim, Judge, Picture, Report, Sweep, Trial};
use crate::Result;
use crate::lora::LoraConfig;
use crate::show::{Chart, Table};
use crate::train::RunConfig;
use crate::train::config::{Method, SchedulerType};

/// A way to train: its name, its rank (none for all weights), its learning rate.
const WAYS: [(&str, Option<usize>, f64); 3] =
    [("all weights", None, 3e-4), ("rank 4", Some(4), 1.5e-3), ("rank 64", Some(64), 1.5e-3)];

/// How often every order is seen.
const EPOCHS: [usize; 2] = [1, 4];

/// Orders that are trained on: few, so that epochs are short.
const ORDERS: usize = 100;

/// Trains all weights and adapters of rank 4 and 64 on a hundred orders for one and for four epochs; of each the answers to
/// held-out orders and the perplexity of a page of running text are taken. Arms are called `rank 4, 4 epochs, seed 0`.
///
/// The base weights are in 16 bits for all, so that none starts from a rounded model; alpha is 32 for both ranks.
///
/// Errors: those of [`Sweep::run`]; [`Error::Read`](crate::Error::Read) without a text; [`Error::Data`](crate::Error::Data) for
/// fewer than a hundred orders.
pub fn forgetting(bench: &Bench, live: &str) -> Result<Report> {
    let judge = Judge { prose: Some(bench.prose()?), orders: bench.test()?, ..Judge::default() };
    let data = write_data(&bench.runs.join("forgetting.jsonl"), &bench.train(ORDERS)?)?;
    let mut trials = Vec::new();
    for (way, rank, rate) in WAYS {
        for epochs in EPOCHS {
            let config = |seed| RunConfig { data: data.clone(), ..config(bench, epochs, seed, rank, rate) };
            trials.extend(Trial::seeds(bench, &name(way, epochs), &judge, config));
        }
    }
    Ok(report(Sweep::run(bench, live, trials)?))
}

fn config(bench: &Bench, epochs: usize, seed: u64, rank: Option<usize>, rate: f64) -> RunConfig {
    let mut config = bench.config(bench.steps, seed);
    config.method = if rank.is_some() { Method::Lora } else { Method::Full };
    if let Some(r) = rank {
        config.lora = LoraConfig { r, lora_alpha: 32.0, ..config.lora };
    }
    config.sft.max_steps = None;
    config.sft.num_train_epochs = epochs as f64;
    config.sft.learning_rate = rate;
    // A schedule that falls to zero would make short and long runs different from the first step on.
    config.sft.lr_scheduler_type = SchedulerType::Constant;
    config
}

fn name(way: &str, epochs: usize) -> String {
    format!("{way}, {epochs} {}", if epochs == 1 { "epoch" } else { "epochs" })
}

fn report(sweep: Sweep) -> Report {
    let groups = sweep.groups();
    let after = |name: &str| values(&groups, name, |arm| arm.perplexity.map(|[_, after]| after));
    let right = |name: &str| values(&groups, name, |arm| arm.exact_match);
    let mut table = Table::new(["arm", "loss", "exactly right", "bounds", "perplexity", "of each seed"]).numeric();
    let untouched: Vec<f64> = sweep.arms.iter().filter_map(|arm| arm.perplexity.map(|[before, _]| before)).collect();
    if let Some(before) = untouched.first() {
        table.row(["before", "-", "-", "-", &format!("{before:.1}"), "-"]);
    }
    let mut chart = Chart::new("What is learned, and what is forgotten");
    chart = chart.x("exactly right (%)").y("perplexity of running text");
    for (way, ..) in WAYS {
        let mut points = Vec::new();
        for name in EPOCHS.map(|epochs| name(way, epochs)) {
            let Some(group) = groups.iter().find(|group| group.name == name) else { continue };
            let (Some(share), Some(perplexity)) = (mean(&right(&name)), mean(&after(&name))) else { continue };
            let each = after(&name).iter().map(|p| format!("{p:.1}")).collect::<Vec<_>>().join(", ");
            let bounds = spread(&intervals(&groups, &name), percent);
            let loss = format!("{:.3}", group.mean);
            table.row([name, loss, percent(share), bounds, format!("{perplexity:.1}"), each]);
            points.push((100.0 * share, perplexity));
        }
        chart = chart.dotted(way, points);
    }
    let [short, long] = [EPOCHS[0], EPOCHS[EPOCHS.len() - 1]];
    let mut verdicts = Vec::new();
    for (way, ..) in WAYS {
        let [once, often] = [short, long].map(|epochs| after(&name(way, epochs)));
        verdicts.push(Claim::less(format!("{way}: running text is worse than before"), &untouched, &often));
        verdicts.push(Claim::less(format!("{way}: more epochs forget more"), &once, &often));
    }
    let [all, low, high] = WAYS.map(|(way, ..)| after(&name(way, long)));
    let [all_right, low_right, high_right] = WAYS.map(|(way, ..)| intervals(&groups, &name(way, long)));
    verdicts.extend([
        Claim::less("rank 4 forgets less than all weights", &low, &all),
        Claim::less("rank 64 forgets less than all weights", &high, &all),
        Claim::less("rank 4 forgets less than rank 64", &low, &high),
        Claim::less("rank 4 answers worse than all weights", &low_right, &all_right),
        Claim::less("rank 4 answers worse than rank 64", &low_right, &high_right),
    ]);
    Report { table, picture: Picture::Chart(chart), verdicts, sweep }
}

#[cfg(test)]
mod tests {
    use super::super::sweep::{Arm, arm};
    use super::super::verdict::Verdict;
    use super::*;

    #[test]
    fn who_forgets_more_is_read_at_the_longest_training() {
        let mut arms = Vec::new();
        for (way, factor) in WAYS.iter().map(|(way, ..)| *way).zip([2.0, 0.1, 0.1]) {
            for epochs in EPOCHS {
                for seed in 0..2 {
                    let after = 20.0 + factor * (epochs + seed) as f64;
                    let arm = arm(&format!("{}, seed {seed}", name(way, epochs)), 0.5);
                    let (exact_match, perplexity) = (Some(0.5), Some([20.0, after]));
                    arms.push(Arm { exact_match, perplexity, answers: 60, ..arm });
                }
            }
        }
        let report = report(Sweep { arms, interrupted: false });
        let verdict = |text: &str| report.verdicts.iter().find(|claim| claim.text == text).map(|claim| claim.verdict);
        assert_eq!(verdict("rank 4 forgets less than all weights"), Some(Verdict::Holds));
        assert_eq!(verdict("rank 4 forgets less than rank 64"), Some(Verdict::Open));
        assert_eq!(verdict("all weights: more epochs forget more"), Some(Verdict::Holds));
        assert_eq!(verdict("rank 4 answers worse than all weights"), Some(Verdict::Open));
        let text = report.table.to_text();
        assert!(
            text.contains("all weights, 4 epochs  0.500            50%  38%–62%        29.0    28.0, 30.0"),
            "{text}"
        );
    }
}
