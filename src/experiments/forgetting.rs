//! What does a model forget while it learns one task, and does LoRA forget less?

use super::verdict::{mean, range, values};
use super::{Bench, Claim, Judge, Picture, Report, Sweep, Trial};
use crate::Result;
use crate::lora::LoraConfig;
use crate::show::{Chart, Table};
use crate::train::RunConfig;
use crate::train::config::{Method, SchedulerType};

/// A way to train: its name, its rank (none for all weights), its learning rate.
const WAYS: [(&str, Option<usize>, f64); 3] =
    [("all weights", None, 3e-4), ("rank 4", Some(4), 1.5e-3), ("rank 64", Some(64), 1.5e-3)];

/// How many times the usual steps.
const LENGTHS: [usize; 2] = [1, 2];

/// Trains all weights and adapters of rank 4 and 64 for the usual steps and twice as many; of each the loss on the task and the
/// perplexity of a page of running text is taken. Arms are called `rank 4, 60 steps, seed 0`.
///
/// The base weights are in 16 bits for all, so that none starts from a rounded model; alpha is 32 for both ranks.
///
/// Errors: those of [`Sweep::run`]; [`Error::Read`](crate::Error::Read) without a text.
pub fn forgetting(bench: &Bench, live: &str) -> Result<Report> {
    let judge = Judge { prose: Some(bench.prose()?), ..Judge::default() };
    let mut trials = Vec::new();
    for (way, rank, rate) in WAYS {
        for length in LENGTHS {
            let steps = length * bench.steps;
            trials
                .extend(Trial::seeds(bench, &name(way, steps), &judge, |seed| config(bench, steps, seed, rank, rate)));
        }
    }
    Ok(report(Sweep::run(bench, live, trials)?, bench.steps))
}

fn config(bench: &Bench, steps: usize, seed: u64, rank: Option<usize>, rate: f64) -> RunConfig {
    let mut config = bench.config(steps, seed);
    config.method = if rank.is_some() { Method::Lora } else { Method::Full };
    if let Some(r) = rank {
        config.lora = LoraConfig { r, lora_alpha: 32.0, ..config.lora };
    }
    config.sft.learning_rate = rate;
    // A schedule that falls to zero would make short and long runs different from the first step on.
    config.sft.lr_scheduler_type = SchedulerType::Constant;
    config
}

fn name(way: &str, steps: usize) -> String {
    format!("{way}, {steps} steps")
}

fn report(sweep: Sweep, steps: usize) -> Report {
    let groups = sweep.groups();
    let after = |arm: &super::Arm| arm.perplexity.map(|[_, after]| after);
    let mut table = Table::new(["arm", "loss on the task", "perplexity", "lowest", "highest"]).numeric();
    let untouched: Vec<f64> = sweep.arms.iter().filter_map(|arm| arm.perplexity.map(|[before, _]| before)).collect();
    if let Some(before) = untouched.first() {
        table.row(["before".to_owned(), "-".into(), format!("{before:.1}"), "-".into(), "-".into()]);
    }
    let mut chart = Chart::new("What is learned, and what is forgotten");
    chart = chart.x("loss on the task (nats per token)").y("perplexity of running text");
    for (way, ..) in WAYS {
        let mut points = Vec::new();
        for length in LENGTHS {
            let Some(group) = groups.iter().find(|group| group.name == name(way, length * steps)) else { continue };
            let perplexities: Vec<f64> = group.arms.iter().filter_map(after).collect();
            let mean = mean(&perplexities).unwrap_or(0.0);
            let (least, most) = range(&perplexities);
            let numbers = [mean, least, most].map(|p| format!("{p:.1}"));
            table.row([group.name.clone(), format!("{:.3}", group.mean)].into_iter().chain(numbers));
            points.push((group.mean, mean));
        }
        chart = chart.dotted(way, points);
    }
    let [short, long] = [LENGTHS[0], LENGTHS[LENGTHS.len() - 1]].map(|length| length * steps);
    let of = |way: &str, steps: usize| values(&groups, &name(way, steps), after);
    let mut verdicts = Vec::new();
    for (way, ..) in WAYS {
        verdicts.push(Claim::less(format!("{way}: running text is worse than before"), &untouched, &of(way, long)));
        verdicts.push(Claim::less(format!("{way}: longer training forgets more"), &of(way, short), &of(way, long)));
    }
    let [all, low, high] = WAYS.map(|(way, ..)| of(way, long));
    verdicts.push(Claim::less("rank 4 forgets less than all weights", &low, &all));
    verdicts.push(Claim::less("rank 64 forgets less than all weights", &high, &all));
    verdicts.push(Claim::less("rank 4 forgets less than rank 64", &low, &high));
    Report {
        question: "What does a model forget while it learns one task, and does LoRA forget less?",
        table,
        picture: Picture::Chart(chart),
        verdicts,
        sweep,
    }
}
