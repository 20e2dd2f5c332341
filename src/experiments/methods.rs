//! What do the methods cost, and how well do they learn?

use std::collections::BTreeMap;

use super::verdict::{intervals, mean, percent, range, spread, values};
use super::{Bench, Claim, Group, Judge, Picture, Report, Sweep, Trial};
use crate::model;
use crate::show::{Bars, Chart, Table};
use crate::train::RunConfig;
use crate::train::config::Method;
use crate::train::plan::{Plan, Settings, Shape};
use crate::{Result, hub};

/// A method, and the rates that are tried.
struct Way {
    name: &'static str,
    method: Method,
    rates: [f64; 3],
}

const WAYS: [Way; 4] = [
    Way { name: "full", method: Method::Full, rates: [3e-5, 3e-4, 3e-3] },
    Way { name: "LoRA", method: Method::Lora, rates: [3e-4, 1.5e-3, 6e-3] },
    Way { name: "QLoRA", method: Method::Qlora, rates: [3e-4, 1.5e-3, 6e-3] },
    Way { name: "prompt tuning", method: Method::PromptTuning, rates: [3e-3, 3e-2, 3e-1] },
];

impl Way {
    fn config(&self, bench: &Bench, steps: usize, seed: u64, rate: f64) -> RunConfig {
        let mut config = bench.config(steps, seed);
        config.method = self.method;
        config.sft.learning_rate = rate;
        config
    }
}

/// Trains by each method at three rates, a factor of ten or so apart: which it needs. Arms are called `LoRA, rate 0.0015, seed 0`.
///
/// Errors: those of [`Sweep::run`].
pub fn rates(bench: &Bench, live: &str) -> Result<Report> {
    let mut trials = Vec::new();
    for way in &WAYS {
        for rate in way.rates {
            let config = |seed| way.config(bench, bench.steps, seed, rate);
            trials.extend(Trial::seeds(bench, &rate_name(way, rate), &Judge::default(), config));
        }
    }
    Ok(rates_report(Sweep::run(bench, live, trials)?))
}

fn rates_report(sweep: Sweep) -> Report {
    let groups = sweep.groups();
    let mut table = Table::new(["loss", "lowest rate", "middle", "highest rate", "best rate"]).numeric();
    let mut chart = Chart::new("Loss on held-out answers by method and learning rate").log_x();
    chart = chart.x("learning rate").y("loss (nats per token)");
    for way in &WAYS {
        let losses = |rate: f64| values(&groups, &rate_name(way, rate), |arm| Some(arm.eval_loss));
        let points: Vec<(f64, f64)> =
            way.rates.into_iter().filter_map(|rate| Some((rate, mean(&losses(rate))?))).collect();
        let Some((best, _)) = points.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1)) else { continue };
        let cells = points.iter().map(|(rate, loss)| match losses(*rate).as_slice() {
            [_] => format!("{loss:.3}"),
            several => format!("{loss:.3} ({})", spread(several, |loss| format!("{loss:.3}"))),
        });
        table.row([way.name.to_owned()].into_iter().chain(cells).chain([format!("{best}")]));
        chart = chart.dotted(way.name, points);
    }
    let [full, lora] = ["full", "LoRA"].map(|name| best_rates(&sweep, name));
    let middle = |way: &Way| values(&groups, &rate_name(way, way.rates[1]), |arm| Some(arm.eval_loss));
    let mut verdicts = vec![Claim::less("all weights want a lower rate than LoRA", &full, &lora)];
    for way in &WAYS {
        for (rate, which) in [(way.rates[0], "lowest"), (way.rates[2], "highest")] {
            let losses = values(&groups, &rate_name(way, rate), |arm| Some(arm.eval_loss));
            verdicts.push(Claim::less(
                format!("{}: the middle rate beats the {which}", way.name),
                &middle(way),
                &losses,
            ));
        }
    }
    Report { table, picture: Picture::Chart(chart), verdicts, sweep }
}

/// The rate with the lowest loss of a method, for each seed.
fn best_rates(sweep: &Sweep, name: &str) -> Vec<f64> {
    let Some(way) = WAYS.iter().find(|way| way.name == name) else { return Vec::new() };
    let mut seeds: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    for rate in way.rates {
        let group = rate_name(way, rate);
        for arm in &sweep.arms {
            let Some(seed) = arm.name.strip_prefix(&group) else { continue };
            let best = seeds.entry(seed).or_insert((rate, arm.eval_loss));
            if arm.eval_loss < best.1 {
                *best = (rate, arm.eval_loss);
            }
        }
    }
    seeds.into_values().map(|(rate, _)| rate).collect()
}

fn rate_name(way: &Way, rate: f64) -> String {
    format!("{}, rate {rate}", way.name)
}

/// How many times the usual steps methods are compared at: in fewer, hardly an answer is exactly right.
const LENGTH: usize = 4;

/// Trains by each method at the middle one of its rates, and lets each model answer orders; memory is planned before and measured. Arms are called
/// by method and seed: `full, seed 0`, and so on with `LoRA`, `QLoRA`, `prompt tuning`.
///
/// Errors: those of [`Sweep::run`], and of the model's files.
pub fn methods(bench: &Bench, live: &str) -> Result<Report> {
    let judge = Judge { orders: bench.test()?, ..Judge::default() };
    let steps = LENGTH * bench.steps;
    let mut trials = Vec::new();
    for way in &WAYS {
        let config = |seed| way.config(bench, steps, seed, way.rates[1]);
        trials.extend(Trial::seeds(bench, way.name, &judge, config));
    }
    let sweep = Sweep::run(bench, live, trials)?;
    let config = model::open(&hub::resolve(&bench.model)?)?.config;
    let mut plans = Vec::new();
    for way in &WAYS {
        let run = way.config(bench, steps, 0, way.rates[1]);
        let tokens = run.sft.per_device_train_batch_size * run.sft.max_length;
        let settings = Settings::new(&run, &config, tokens)?;
        plans.push((way.name, Plan::new(&Shape::from(&config), &settings).total));
    }
    Ok(report(sweep, &plans))
}

/// - `plans`: the bytes that each method needs by the plan
fn report(sweep: Sweep, plans: &[(&str, u64)]) -> Report {
    let groups = sweep.groups();
    let memory = |name: &str| values(&groups, name, |arm| arm.memory.map(|bytes| bytes as f64));
    let rate = |name: &str| values(&groups, name, |arm| arm.tokens_per_second);
    let right = |name: &str| values(&groups, name, |arm| arm.exact_match);
    let mut table =
        Table::new(["", "trained", "planned MB", "measured MB", "tokens/s", "loss", "of seeds", "exactly right"])
            .numeric();
    let (mut names, mut planned, mut measured) = (Vec::new(), Vec::new(), Vec::new());
    for group in &groups {
        let name = group.name.as_str();
        let Some((_, plan)) = plans.iter().find(|(way, _)| *way == name) else { continue };
        let (_, peak) = range(&memory(name));
        let whole = |number: Option<f64>| number.map_or_else(|| "-".into(), |n| format!("{n:.0}"));
        let losses: Vec<f64> = group.arms.iter().map(|arm| arm.eval_loss).collect();
        table.row([
            name.to_owned(),
            group.trained().to_string(),
            format!("{:.0}", *plan as f64 / 1e6),
            whole(peak.is_finite().then_some(peak / 1e6)),
            whole(mean(&rate(name))),
            format!("{:.3}", group.mean),
            spread(&losses, |loss| format!("{loss:.3}")),
            mean(&right(name)).map_or_else(|| "-".into(), percent),
        ]);
        names.push(name.to_owned());
        planned.push(*plan as f64 / 1e6);
        measured.push(peak.max(0.0) / 1e6);
    }
    let bars = Bars::new("Memory of a training, planned and measured", names).y("MB");
    let picture = Picture::Bars(bars.bar("planned", planned).bar("measured", measured));
    let verdicts = claims(&groups, plans);
    Report { table, picture, verdicts, sweep }
}

/// What is said of memory, loss, answers and the plan.
fn claims(groups: &[Group], plans: &[(&str, u64)]) -> Vec<Claim> {
    let loss = |name: &str| values(groups, name, |arm| Some(arm.eval_loss));
    let memory = |name: &str| values(groups, name, |arm| arm.memory.map(|bytes| bytes as f64));
    let answers = |name: &str| intervals(groups, name);
    let errors = plans
        .iter()
        .flat_map(|(name, plan)| memory(name).into_iter().map(move |measured| (measured / *plan as f64 - 1.0).abs()));
    let errors: Vec<f64> = errors.collect();
    vec![
        Claim::less("LoRA needs less memory than training all weights", &memory("LoRA"), &memory("full")),
        Claim::less("QLoRA needs less memory than LoRA", &memory("QLoRA"), &memory("LoRA")),
        Claim::less("prompt tuning needs less memory than QLoRA", &memory("prompt tuning"), &memory("QLoRA")),
        Claim::less("all weights end at a lower loss than LoRA", &loss("full"), &loss("LoRA")),
        Claim::less("LoRA ends at a lower loss than QLoRA", &loss("LoRA"), &loss("QLoRA")),
        Claim::less("QLoRA ends at a lower loss than prompt tuning", &loss("QLoRA"), &loss("prompt tuning")),
        Claim::less("LoRA answers worse than all weights", &answers("LoRA"), &answers("full")),
        Claim::less("QLoRA answers worse than LoRA", &answers("QLoRA"), &answers("LoRA")),
        Claim::less("prompt tuning answers worse than QLoRA", &answers("prompt tuning"), &answers("QLoRA")),
        Claim::less("the plan is within 10% of what was measured", &errors, &[0.1]),
    ]
}
