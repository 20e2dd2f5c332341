//! What people look at in a run's folder, or in a merged model's: the curve and the card.

use std::path::Path;

use super::card::{Card, merged_card, model_card};
use super::metrics::summarize;
use super::plot::loss_svg;
use crate::evaluate::TaskScores;
use crate::lora::peft;
use crate::model::export::Verification;
use crate::train::Session;
use crate::train::metrics::METRICS_FILE;
use crate::train::observer::{End, Start};
use crate::{Error, Result, files, hub};

/// Scores of the model before and after training, on the same held-out examples.
#[derive(Clone, Copy, Debug)]
pub struct Scores {
    pub before: TaskScores,
    pub after: TaskScores,
}

/// Writes `loss.svg` and `README.md` of a run that has ended into its folder, from its session, the events that began and
/// ended it, and its `metrics.jsonl`; `language` holds the data's languages by their ISO 639 codes.
///
/// Errors: [`Error::Read`] without `metrics.jsonl`, [`Error::Data`] where it is broken; [`Error::Write`].
pub fn write_results(
    session: &Session,
    start: &Start,
    end: &End,
    language: &[&str],
    scores: Option<Scores>,
) -> Result<()> {
    let config = &session.config;
    let path = config.output_dir.join(METRICS_FILE);
    let metrics = std::fs::read_to_string(&path).map_err(|e| Error::read(&path, e))?;
    files::write_atomic(&config.output_dir.join("loss.svg"), loss_svg(&metrics)?.as_bytes())?;
    let card = Card {
        config,
        base_model: hub::base_model(&config.model),
        base_license: hub::ALIASES.iter().find(|alias| alias.name == config.model).map(|alias| alias.license),
        language,
        instruction: session.instruction.as_deref(),
        start,
        end,
        summary: &summarize(&metrics)?,
        before: scores.map(|s| s.before),
        after: scores.map(|s| s.after),
    };
    files::write_atomic(&config.output_dir.join("README.md"), model_card(&card).as_bytes())
}

/// Writes `README.md` of a model that the adapter in `adapter` was merged into, and its curve, into `directory`.
///
/// Errors: [`Error::Read`] for a card that is there and cannot be read; [`Error::Format`] for a broken adapter;
/// [`Error::Write`].
pub fn write_merged_card(adapter: &Path, directory: &Path, verification: Option<&Verification>) -> Result<()> {
    let optional = |name: &str| {
        let path = adapter.join(name);
        path.is_file().then(|| std::fs::read_to_string(&path).map_err(|e| Error::read(path, e))).transpose()
    };
    let base = peft::base_model(&adapter.join(peft::CONFIG_FILE))?;
    let card = merged_card(optional("README.md")?.as_deref(), &base, verification);
    files::write_atomic(&directory.join("README.md"), card.as_bytes())?;
    match optional("loss.svg")? {
        Some(curve) => files::write_atomic(&directory.join("loss.svg"), curve.as_bytes()),
        None => Ok(()),
    }
}
