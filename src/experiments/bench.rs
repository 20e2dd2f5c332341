//! What experiments run on, and what a trained model is asked.

use std::path::{Path, PathBuf};

use super::record;
use crate::data::{self, Record};
use crate::decide::arms;
use crate::train::{RunConfig, SftConfig};
use crate::{Error, Result};

/// Where experiments find their data, and how long their trainings are.
#[derive(Clone, Debug, PartialEq)]
pub struct Bench {
    /// A model's name or folder.
    pub model: String,
    /// The folder of orders, with `train.jsonl` and `test.jsonl`.
    pub orders: PathBuf,
    /// A page of running text.
    pub prose: PathBuf,
    /// Arms that have run before, by their settings.
    pub record: PathBuf,
    /// Whether arms that run are put on record.
    pub recording: bool,
    /// Where runs leave their files.
    pub runs: PathBuf,
    /// Optimizer steps of a training of usual length, a row of packed examples each.
    pub steps: usize,
    /// Held-out orders that a trained model answers.
    pub answers: usize,
    /// How often an arm is trained, each time from another seed.
    pub seeds: u64,
}

impl Bench {
    /// The bench of the course, found from a notebook's folder.
    pub fn course(record: &str) -> Self {
        Self {
            model: "smollm2-135m".into(),
            orders: "../../datasets/orders".into(),
            prose: "../../datasets/prose/en.txt".into(),
            record: record.into(),
            recording: record::wanted(),
            runs: "../../runs/arms".into(),
            steps: 60,
            answers: 60,
            seeds: 2,
        }
    }

    /// A training of `steps` steps on the orders, with the settings of the course's lessons.
    pub fn config(&self, steps: usize, seed: u64) -> RunConfig {
        let file = |name: &str| self.orders.join(name).display().to_string();
        let training = arms::training();
        RunConfig {
            model: self.model.clone(),
            data: file("train.jsonl"),
            eval_data: Some(file("test.jsonl")),
            output_dir: self.runs.clone(),
            sft: SftConfig { max_steps: Some(steps), max_length: 256, ..training.sft },
            seed,
            ..training
        }
    }

    /// The first `n` records of `train.jsonl`.
    ///
    /// Errors: those of [`data::load`]; [`Error::Data`] where there are fewer.
    pub(super) fn train(&self, n: usize) -> Result<Vec<Record>> {
        let path = self.orders.join("train.jsonl");
        let mut records = data::load(&path)?;
        if records.len() < n {
            let what = format!("has {} records, and the experiment takes {n}", records.len());
            return Err(Error::data("", what, "Use the course's file, or a longer one of your own.").in_file(&path));
        }
        records.truncate(n);
        Ok(records)
    }

    /// The held-out orders that a trained model answers.
    ///
    /// Errors: those of [`data::load`].
    pub(super) fn test(&self) -> Result<Vec<Record>> {
        let mut records = data::load(&self.orders.join("test.jsonl"))?;
        records.truncate(self.answers);
        Ok(records)
    }

    /// The page of running text.
    ///
    /// Errors: [`Error::Read`].
    pub(super) fn prose(&self) -> Result<String> {
        std::fs::read_to_string(&self.prose).map_err(|source| Error::Read {
            path: self.prose.clone(),
            hint: "Perplexity is measured on it; give a text file of a page or more.".into(),
            source,
        })
    }
}

/// A training of an experiment, and what its model is asked.
#[derive(Clone, Debug)]
pub struct Trial {
    /// Trials that differ by their seed alone have the same words before `, seed`.
    pub name: String,
    pub config: RunConfig,
    pub judge: Judge,
}

impl Trial {
    /// Trials that differ by their seed, for each of `bench`'s.
    pub fn seeds(bench: &Bench, name: &str, judge: &Judge, config: impl Fn(u64) -> RunConfig) -> Vec<Self> {
        let trial = |seed| Self { name: format!("{name}, seed {seed}"), config: config(seed), judge: judge.clone() };
        (0..bench.seeds).map(trial).collect()
    }
}

/// What a trained model is asked, beside its loss on held-out answers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Judge {
    /// Orders to answer.
    pub orders: Vec<Record>,
    /// The template that they are put in; the one of the training where there is none.
    pub template: Option<String>,
    /// A text whose perplexity is taken, before and after.
    pub prose: Option<String>,
}

impl Judge {
    /// What of it makes a difference to an arm; empty for the loss and for plain answers.
    pub(super) fn settings(&self) -> String {
        let template = self.template.iter().map(|name| format!("\nasked in {name}"));
        template.chain(self.prose.iter().map(|text| format!("\nreads {}", record::key(text)))).collect()
    }
}

/// Writes `records` where a run can read them.
///
/// Errors: [`Error::Write`].
pub(super) fn write_data(path: &Path, records: &[Record]) -> Result<String> {
    if let Some(folder) = path.parent() {
        crate::files::create_directory(folder)?;
    }
    crate::files::write_atomic(path, data::orders::jsonl(records).as_bytes())?;
    Ok(path.display().to_string())
}
