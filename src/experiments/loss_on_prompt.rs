//! Should the loss count the prompt's tokens, or only the answer's?

use super::verdict::values;
use super::{Bench, Claim, Judge, Picture, Report, Sweep, Trial};
use crate::Result;
use crate::show::Bars;

/// Trains on answers alone and on everything; both are judged by the loss of answers. Arms are called
/// `answers only, seed 0` and `prompt and answer, seed 0`.
///
/// Errors: those of [`Sweep::run`].
pub fn loss_on_prompt(bench: &Bench, live: &str) -> Result<Report> {
    let mut trials = Vec::new();
    for (name, completion_only_loss) in ARMS {
        trials.extend(Trial::seeds(bench, name, &Judge::default(), |seed| {
            let mut config = bench.config(bench.steps, seed);
            config.sft.completion_only_loss = completion_only_loss;
            config
        }));
    }
    Ok(report(Sweep::run(bench, live, trials)?))
}

const ARMS: [(&str, bool); 2] = [("answers only", true), ("prompt and answer", false)];

fn report(sweep: Sweep) -> Report {
    let groups = sweep.groups();
    let [only, both] = ARMS.map(|(name, _)| values(&groups, name, |arm| Some(arm.eval_loss)));
    let bars = Bars::new("Loss on held-out answers, by what the training counted", ARMS.map(|(name, _)| name))
        .y("loss (nats per token)")
        .bar("mean of the seeds", groups.iter().map(|group| group.mean));
    let verdicts = vec![Claim::less("counting answers alone makes better answers", &only, &both)];
    Report { table: sweep.table(), picture: Picture::Bars(bars), verdicts, sweep }
}
