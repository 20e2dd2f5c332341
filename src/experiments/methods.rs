//! What do the methods cost, and how well do they learn?

use super::verdict::{interval, mean, range, values};
use super::{Bench, Claim, Judge, Picture, Report, Sweep, Trial, Verdict};
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

/// Trains by each method at three rates, a factor of ten or so apart: which it needs. Arms are called `LoRA, rate 0.0015`.
///
/// Errors: those of [`Sweep::run`].
pub fn rates(bench: &Bench, live: &str) -> Result<Report> {
    let mut trials = Vec::new();
    for way in &WAYS {
        for rate in way.rates {
            let config = way.config(bench, bench.steps, 0, rate);
            trials.push(Trial { name: rate_name(way, rate), config, judge: Judge::default() });
        }
    }
    let sweep = Sweep::run(bench, live, trials)?;
    let mut table = Table::new(["loss", "lowest rate", "middle", "highest rate", "best rate"]).numeric();
    let mut chart = Chart::new("Loss on held-out answers by method and learning rate").log_x();
    chart = chart.x("learning rate").y("loss (nats per token)");
    let mut best = Vec::new();
    for way in &WAYS {
        let loss = |rate: f64| sweep.arms.iter().find(|arm| arm.name == rate_name(way, rate)).map(|arm| arm.eval_loss);
        let points: Vec<(f64, f64)> = way.rates.into_iter().filter_map(|rate| Some((rate, loss(rate)?))).collect();
        let Some((rate, _)) = points.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1)) else { continue };
        let losses = points.iter().map(|(_, loss)| format!("{loss:.3}"));
        table.row([way.name.to_owned()].into_iter().chain(losses).chain([format!("{rate}")]));
        chart = chart.dotted(way.name, points);
        best.push((way.name, rate));
    }
    let rate = |name: &str| best.iter().filter(|(way, _)| *way == name).map(|(_, rate)| *rate).collect::<Vec<_>>();
    let verdicts = vec![Claim::less("all weights want a lower rate than LoRA", &rate("full"), &rate("LoRA"))];
    let question = "Which learning rate does each method need?";
    Ok(Report { question, table, picture: Picture::Chart(chart), verdicts, sweep })
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
    Ok(report(sweep, &plans, judge.orders.len()))
}

/// - `plans`: the bytes that each method needs by the plan
/// - `n`: the orders that each arm answered
fn report(sweep: Sweep, plans: &[(&str, u64)], n: usize) -> Report {
    let groups = sweep.groups();
    let loss = |name: &str| values(&groups, name, |arm| Some(arm.eval_loss));
    let memory = |name: &str| values(&groups, name, |arm| arm.memory.map(|bytes| bytes as f64));
    let rate = |name: &str| values(&groups, name, |arm| arm.tokens_per_second);
    let right = |name: &str| values(&groups, name, |arm| arm.exact_match);
    let mut table = Table::new([
        "",
        "trained",
        "planned MB",
        "measured MB",
        "tokens/s",
        "loss",
        "lowest",
        "highest",
        "exactly right",
    ])
    .numeric();
    let mut bars = (Vec::new(), Vec::new(), Vec::new());
    let mut off = Vec::new();
    for group in &groups {
        let name = group.name.as_str();
        let Some((_, planned)) = plans.iter().find(|(way, _)| *way == name) else { continue };
        let planned = *planned as f64;
        off.extend(memory(name).iter().map(|measured| (measured / planned - 1.0).abs()));
        let (_, measured) = range(&memory(name));
        let (lowest, highest) = group.loss_range();
        let shown = |number: Option<f64>, unit: &str| number.map_or_else(|| "-".into(), |n| format!("{n:.0}{unit}"));
        table.row([
            name.to_owned(),
            group.trained().to_string(),
            format!("{:.0}", planned / 1e6),
            shown(measured.is_finite().then_some(measured / 1e6), ""),
            shown(mean(&rate(name)), ""),
            format!("{:.3}", group.mean),
            format!("{lowest:.3}"),
            format!("{highest:.3}"),
            shown(mean(&right(name)).map(|share| 100.0 * share), "%"),
        ]);
        bars.0.push(name.to_owned());
        bars.1.push(planned / 1e6);
        bars.2.push(measured.max(0.0) / 1e6);
    }
    let picture = Bars::new("Memory of a training, planned and measured", bars.0).y("MB");
    let picture = Picture::Bars(picture.bar("planned", bars.1).bar("measured", bars.2));
    let answers = |name: &str| -> Vec<f64> { right(name).into_iter().flat_map(|share| interval(share, n)).collect() };
    let verdicts = vec![
        Claim::less("LoRA needs less memory than training all weights", &memory("LoRA"), &memory("full")),
        Claim::less("QLoRA needs less memory than LoRA", &memory("QLoRA"), &memory("LoRA")),
        Claim::less("prompt tuning needs less memory than QLoRA", &memory("prompt tuning"), &memory("QLoRA")),
        Claim::less("all weights end at a lower loss than LoRA", &loss("full"), &loss("LoRA")),
        Claim::less("LoRA ends at a lower loss than QLoRA", &loss("LoRA"), &loss("QLoRA")),
        Claim::less("QLoRA ends at a lower loss than prompt tuning", &loss("QLoRA"), &loss("prompt tuning")),
        Claim::less("LoRA answers worse than all weights", &answers("LoRA"), &answers("full")),
        Claim::less("QLoRA answers worse than LoRA", &answers("QLoRA"), &answers("LoRA")),
        Claim::less("prompt tuning answers worse than QLoRA", &answers("prompt tuning"), &answers("QLoRA")),
        Claim { text: "the plan is within 10% of what was measured".into(), verdict: Verdict::less(&off, &[0.1]) },
    ];
    let question = "What do the methods cost, and how well do they learn?";
    Report { question, table, picture, verdicts, sweep }
}
