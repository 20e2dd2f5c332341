//! What happens to a model that is asked in another template than it was trained in?

use super::verdict::{intervals, mean, percent, values};
use super::{Bench, Claim, Judge, Picture, Report, Sweep, Trial};
use crate::Result;
use crate::show::{Bars, Table};
use crate::train::config::TemplateName;

const TEMPLATES: [TemplateName; 2] = [TemplateName::Alpaca, TemplateName::Chat];

/// Trains in one template and asks in one: all four pairs. Arms are called `trained in alpaca, asked in chat, seed 0`.
///
/// Errors: those of [`Sweep::run`].
pub fn wrong_template(bench: &Bench, live: &str) -> Result<Report> {
    let orders = bench.test()?;
    let mut trials = Vec::new();
    for trained in TEMPLATES {
        for asked in TEMPLATES {
            let other = (asked != trained).then(|| asked.name().to_owned());
            let judge = Judge { orders: orders.clone(), template: other, prose: None };
            trials.extend(Trial::seeds(bench, &name(trained, asked), &judge, |seed| {
                let mut config = bench.config(2 * bench.steps, seed);
                config.template = trained;
                config
            }));
        }
    }
    Ok(report(Sweep::run(bench, live, trials)?))
}

fn name(trained: TemplateName, asked: TemplateName) -> String {
    format!("trained in {}, asked in {}", trained.name(), asked.name())
}

fn report(sweep: Sweep) -> Report {
    let groups = sweep.groups();
    let right = |trained, asked| values(&groups, &name(trained, asked), |arm| arm.exact_match);
    let mut table = Table::new(["exactly right", "asked in alpaca", "asked in chat"]).numeric();
    let mut bars = Bars::new("Right answers by template", TEMPLATES.map(|asked| format!("asked in {}", asked.name())))
        .y("exactly right (%)");
    let mut verdicts = Vec::new();
    for trained in TEMPLATES {
        let row = TEMPLATES.map(|asked| mean(&right(trained, asked)));
        let title = format!("trained in {}", trained.name());
        table.row([title.clone()].into_iter().chain(row.map(|share| share.map_or_else(|| "-".into(), percent))));
        bars = bars.bar(title, row.map(|share| 100.0 * share.unwrap_or(0.0)));
        let bounds = |asked| intervals(&groups, &name(trained, asked));
        let other: Vec<f64> = TEMPLATES.into_iter().filter(|asked| *asked != trained).flat_map(bounds).collect();
        verdicts.push(Claim::less(
            format!("trained in {}, the model is worse when asked in the other", trained.name()),
            &other,
            &bounds(trained),
        ));
    }
    Report { table, picture: Picture::Bars(bars), verdicts, sweep }
}
