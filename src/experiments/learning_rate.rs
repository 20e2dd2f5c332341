//! Is a learning rate that is too high slow, or is it fatal?

use super::verdict::values;
use super::{Bench, Claim, Judge, Picture, Report, Sweep, Trial, Verdict};
use crate::Result;
use crate::show::{Chart, Table};

/// From too low to far too high. The rate that is often named for LoRA, 2e-4, is among them.
const RATES: [f64; 6] = [2e-5, 2e-4, 1.5e-3, 1e-2, 5e-2, 2e-1];

/// Trains a QLoRA adapter at rates from 2e-5 to 0.2. Arms are called `rate 0.0015, seed 0`.
///
/// A run whose loss runs away is stopped by [`DivergenceCheck`](crate::train::checks::DivergenceCheck).
///
/// Errors: those of [`Sweep::run`].
pub fn learning_rate(bench: &Bench, live: &str) -> Result<Report> {
    let mut trials = Vec::new();
    for rate in RATES {
        trials.extend(Trial::seeds(bench, &name(rate), &Judge::default(), |seed| {
            let mut config = bench.config(bench.steps, seed);
            config.sft.learning_rate = rate;
            config
        }));
    }
    Ok(report(Sweep::run(bench, live, trials)?))
}

fn name(rate: f64) -> String {
    format!("rate {rate}")
}

fn report(sweep: Sweep) -> Report {
    let groups = sweep.groups();
    let mut table = Table::new(["arm", "loss", "lowest", "highest", "stopped"]).numeric();
    for group in &groups {
        let (least, most) = group.loss_range();
        let stopped = group.arms.iter().filter(|arm| arm.stopped.is_some()).count();
        let losses = [group.mean, least, most].map(|loss| format!("{loss:.3}"));
        let stopped = format!("{stopped} of {}", group.arms.len());
        table.row([group.name.clone()].into_iter().chain(losses).chain([stopped]));
    }
    let points = RATES.iter().zip(&groups).map(|(rate, group)| (*rate, group.mean));
    let chart = Chart::new("Loss on held-out answers by learning rate").log_x().log_y();
    let chart = chart.x("learning rate").y("loss (nats per token)").dotted("QLoRA, rank 16", points);
    let loss = |rate: f64| values(&groups, &name(rate), |arm| Some(arm.eval_loss));
    let highest = groups.last().map_or(&[][..], |group| &group.arms);
    let ruined = match highest.iter().filter(|arm| arm.stopped.is_some()).count() {
        _ if highest.is_empty() => Verdict::Open,
        n if n == highest.len() => Verdict::Holds,
        0 => Verdict::Fails,
        _ => Verdict::Open,
    };
    let verdicts = vec![
        Claim::less("1.5e-3 gets further than 2e-4 in the same steps", &loss(1.5e-3), &loss(2e-4)),
        Claim::less("2e-4 gets further than 2e-5 in the same steps", &loss(2e-4), &loss(2e-5)),
        Claim::less("1.5e-3 gets further than 1e-2", &loss(1.5e-3), &loss(1e-2)),
        Claim { text: "at 0.2 the loss runs away, and the run is stopped".into(), verdict: ruined },
    ];
    Report { table, picture: Picture::Chart(chart), verdicts, sweep }
}

#[cfg(test)]
mod tests {
    use super::super::sweep::arm;
    use super::*;

    #[test]
    fn a_claim_follows_its_arms() {
        let mut arms = Vec::new();
        for (rate, loss) in RATES.into_iter().zip([2.0, 1.0, 0.5, 0.5, 3.0, 9.0]) {
            arms.extend([0.0, 0.1].map(|more| arm(&format!("{}, seed {more}", name(rate)), loss + more)));
        }
        arms.iter_mut().rev().take(2).for_each(|arm| arm.stopped = Some("it ran away".into()));
        let report = report(Sweep { arms, interrupted: false });
        let verdicts: Vec<Verdict> = report.verdicts.iter().map(|claim| claim.verdict).collect();
        assert_eq!(verdicts, [Verdict::Holds, Verdict::Holds, Verdict::Open, Verdict::Holds]);
        let text = report.table.to_text();
        let last: Vec<&str> = text.lines().last().unwrap_or_default().split_whitespace().collect();
        assert_eq!(last, ["rate", "0.2", "9.050", "9.000", "9.100", "2", "of", "2"], "{text}");
        assert!(report.claims().to_text().contains("open"), "{}", report.claims().to_text());
    }
}
