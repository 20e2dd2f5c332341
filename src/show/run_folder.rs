//! What people look at in a run's folder: the curve and the card.

use super::card::{Card, Scores, model_card};
use super::curve::loss_svg;
use crate::data::PLAIN;
use crate::train::Session;
use crate::train::metrics::METRICS_FILE;
use crate::train::observer::End;
use crate::{Error, Result, device, files, hub};

/// Writes `loss.svg` and `README.md` of a run that has ended into its folder, from its session and `metrics.jsonl`.
///
/// Errors: [`Error::Read`] without `metrics.jsonl`; [`Error::Write`].
pub fn write_results(session: &Session, end: &End, scores: Option<Scores>) -> Result<()> {
    let config = &session.config;
    let path = config.output_dir.join(METRICS_FILE);
    let metrics = std::fs::read_to_string(&path).map_err(|e| Error::read(&path, e))?;
    files::write_atomic(&config.output_dir.join("loss.svg"), loss_svg(&metrics)?.as_bytes())?;
    let last = |key: &str| {
        let rows = metrics.lines().rev().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        rows.filter_map(|row| row.get(key)?.as_f64()).next()
    };
    let template = config.template.name();
    let card = Card {
        config,
        base_model: hub::base_model(&config.model),
        license: hub::ALIASES.iter().find(|alias| alias.name == config.model).map(|alias| alias.license),
        prompt: PLAIN.iter().find(|plain| plain.name == template).map(|plain| plain.with_input),
        instruction: session.instruction.as_deref(),
        examples: session.report.examples,
        steps: end.step,
        tokens_per_second: end.tokens_per_second,
        train_seconds: end.train_seconds,
        peak_rss_bytes: end.peak_rss_bytes,
        device: &device::describe(session.decoder.device()),
        final_loss: last("loss"),
        eval_loss: last("eval_loss"),
        scores,
    };
    files::write_atomic(&config.output_dir.join("README.md"), model_card(&card).as_bytes())
}
