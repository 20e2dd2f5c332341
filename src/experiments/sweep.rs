//! Several trainings, of which one runs now and the others are on record.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::bench::{Bench, Judge, Trial};
use super::record;
use super::verdict::{mean, range};
use crate::data::{self, Record, Template, TokenizeOptions};
use crate::ops::aligned;
use crate::show::{Progress, Table};
use crate::train::evaluation::evaluation_loss;
use crate::train::observer::Event;
use crate::train::{self, Observer, RunConfig, Session};
use crate::{Error, Result, device, evaluate, hub, interrupt, notebook};

/// Held-out examples whose loss an arm is judged by.
const JUDGED: usize = 60;
/// Tokens of a window of a text.
const WINDOW: usize = 512;

/// What a training of an experiment came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Arm {
    /// What sets it apart from the others; arms that differ by their seed alone have the same words before `, seed`.
    pub name: String,
    /// The mean loss of a token of held-out answers, in nats.
    pub eval_loss: f64,
    /// The share of held-out answers that are exactly right, where they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exact_match: Option<f64>,
    /// How many held-out orders it was asked.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub answers: usize,
    /// The perplexity of a text before the training and after it, where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub perplexity: Option<[f64; 2]>,
    /// Why the training was stopped, where it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
    /// How many parameters were trained.
    pub trained: usize,
    pub seconds: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_second: Option<f64>,
    /// The most memory that the process took for it, above what it held before, in bytes; where the system tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Where its files are, if it ran now and not before, for the record.
    #[serde(skip)]
    pub output_dir: Option<PathBuf>,
}

/// The arms of an experiment, in the order in which they were asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sweep {
    pub arms: Vec<Arm>,
    /// Whether it was stopped before its last arm.
    pub interrupted: bool,
}

/// Arms with the same name but for the seed.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    pub name: String,
    pub arms: Vec<Arm>,
    /// The mean loss, in nats.
    pub mean: f64,
}

/// Trains the arm called `live`, and those that `record` does not have; takes the others from there.
///
/// An arm is on record if one with exactly its settings is: change a setting, and it runs. Each leaves its files in
/// `../../runs/arms`. An interrupt ends the sweep with the arms that are finished.
///
/// Errors: those of [`hub::session`] and [`train::run`]; [`Error::Data`] for a `record` that is none or arms without `eval_data`.
pub fn sweep(record: &str, live: &str, arms: Vec<(String, RunConfig)>) -> Result<Sweep> {
    sweep_scored(record, live, arms, &[])
}

/// [`sweep`], where each arm also answers `orders`.
///
/// Errors: those of [`sweep`] and [`evaluate::answers`].
pub fn sweep_scored(record: &str, live: &str, arms: Vec<(String, RunConfig)>, orders: &[Record]) -> Result<Sweep> {
    let judge = Judge { orders: orders.to_vec(), ..Judge::default() };
    let trials = arms.into_iter().map(|(name, config)| Trial { name, config, judge: judge.clone() }).collect();
    Sweep::run(&Bench::course(record), live, trials)
}

impl Sweep {
    /// Runs the trial called `live`, and those that `bench`'s record does not have.
    ///
    /// Errors: those of [`sweep_scored`].
    pub fn run(bench: &Bench, live: &str, trials: Vec<Trial>) -> Result<Self> {
        let mut known = record::read::<Arm>(&bench.record)?;
        let mut sweep = Self::default();
        interrupt::begin();
        for trial in trials {
            let key = key(&trial);
            let answered = |arm: &&Arm| trial.judge.orders.is_empty() || arm.answers == trial.judge.orders.len();
            let old = known.get(&key).filter(answered);
            let is_known = old.is_some();
            let arm = match old.filter(|_| trial.name != live) {
                Some(old) => Arm { name: trial.name, ..old.clone() },
                None => match run(&bench.runs.join(&key), trial) {
                    Err(Error::Interrupted { .. }) => {
                        sweep.interrupted = true;
                        break;
                    }
                    arm => arm?,
                },
            };
            if bench.recording && !is_known {
                known.insert(key, arm.clone());
                record::write(&bench.record, &known)?;
            }
            sweep.arms.push(arm);
        }
        Ok(sweep)
    }

    /// The arms, those of different seeds together, in their order.
    pub fn groups(&self) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        for arm in &self.arms {
            let name = arm.name.split(", seed").next().unwrap_or_default();
            match groups.iter_mut().find(|group| group.name == name) {
                Some(group) => group.arms.push(arm.clone()),
                None => groups.push(Group { name: name.into(), arms: vec![arm.clone()], mean: 0.0 }),
            }
        }
        for group in &mut groups {
            group.mean = mean(&group.arms.iter().map(|arm| arm.eval_loss).collect::<Vec<_>>()).unwrap_or(0.0);
        }
        groups
    }

    /// Mean and spread of each group's loss.
    pub fn table(&self) -> Table {
        let mut table = Table::new(["arm", "trained", "loss", "lowest", "highest", "runs"]).numeric();
        for group in self.groups() {
            let (least, most) = group.loss_range();
            let losses = [group.mean, least, most].map(|loss| format!("{loss:.4}"));
            let [trained, runs] = [group.trained(), group.arms.len()].map(|n| n.to_string());
            table.row([group.name, trained].into_iter().chain(losses).chain([runs]));
        }
        table
    }

    /// The loss of the arm that ran now, if one did.
    pub fn live(&self) -> Option<&Arm> {
        self.arms.iter().find(|arm| arm.output_dir.is_some())
    }
}

impl Group {
    /// The lowest and the highest loss, in nats.
    pub fn loss_range(&self) -> (f64, f64) {
        range(&self.arms.iter().map(|arm| arm.eval_loss).collect::<Vec<_>>())
    }

    /// How many parameters each arm trained.
    pub fn trained(&self) -> usize {
        self.arms.first().map_or(0, |arm| arm.trained)
    }
}

/// For serde, which hands it a reference.
fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// Settings that make a difference, as a digest; how many orders are answered is the [`Arm`]'s own.
fn key(trial: &Trial) -> String {
    let config = RunConfig { output_dir: Default::default(), ..trial.config.clone() };
    record::key(&(config.to_toml() + &trial.judge.settings()))
}

/// Removes what an earlier run of the same settings left: it would be gone on with, and be no measurement.
///
/// Errors: [`Error::Write`].
pub(super) fn clear(output_dir: &Path) -> Result<()> {
    match std::fs::remove_dir_all(output_dir) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            let hint = "Remove it by hand, and run the cell again.".into();
            Err(Error::Write { path: output_dir.into(), hint, source })
        }
        _ => Ok(()),
    }
}

fn run(output_dir: &Path, trial: Trial) -> Result<Arm> {
    clear(output_dir)?;
    device::on_pool(|| {
        let Trial { name, config, judge } = trial;
        let config = RunConfig { output_dir: output_dir.into(), ..config };
        // What an arm before left free would hide what this one takes.
        aligned::give_back();
        let memory = device::MemoryWatch::begin();
        let device = device::choose(device::Wanted::Auto)?.device;
        let mut session = hub::session(config, device, &mut |_| {}, &mut (), |_, _| {})?;
        let before = judge.perplexity(&session)?;
        let mut watch = Watch::new(&name);
        let started = Instant::now();
        let end = train::run(&mut session, &mut watch);
        drop(watch);
        let (end, stopped) = match end {
            Ok(end) => (Some(end), None),
            Err(Error::Numeric { what, .. }) => (None, Some(what)),
            Err(e) => return Err(e),
        };
        let memory = memory.peak();
        Ok(Arm {
            eval_loss: answer_loss(&session)?,
            exact_match: judge.exact_match(&session)?,
            answers: judge.orders.len(),
            perplexity: before.zip(judge.perplexity(&session)?).map(|(before, after)| [before, after]),
            stopped,
            trained: session.decoder.parameters().element_count(),
            seconds: end.as_ref().map_or_else(|| started.elapsed().as_secs_f64(), |end| end.train_seconds),
            tokens_per_second: end.map(|end| end.tokens_per_second),
            memory,
            output_dir: Some(output_dir.into()),
            name,
        })
    })
}

/// The mean loss of a token of the first held-out answers, whether or not the training counted the prompts' too.
fn answer_loss(session: &Session) -> Result<f64> {
    let missing = || Error::data("", "there is nothing to judge an arm by", "Give its config an `eval_data`.");
    let path = session.config.eval_data.as_deref().ok_or_else(missing)?;
    let mut records = data::load(&hub::resolve_data(path, &mut |_| {})?)?;
    records.truncate(JUDGED);
    let options = TokenizeOptions {
        max_length: session.config.sft.max_length,
        completion_only_loss: true,
        eos_token_id: session.pretrained.eos_token_id()?,
        bos: session.pretrained.leading_bos(),
    };
    let examples = data::tokenize(&records, &session.template, session.pretrained.tokenizer()?, &options)?.examples;
    let output = evaluation_loss(&session.decoder, &examples, session.config.sft.max_length, &|| false)?;
    output.map(|output| output.loss_sum / output.count.max(1) as f64).ok_or_else(missing)
}

impl Judge {
    fn perplexity(&self, session: &Session) -> Result<Option<f64>> {
        let Session { decoder, pretrained, .. } = session;
        let of =
            |text: &String| -> Result<f64> { Ok(evaluate::perplexity(decoder, pretrained, text, WINDOW)?.value()) };
        self.prose.as_ref().map(of).transpose()
    }

    fn exact_match(&self, session: &Session) -> Result<Option<f64>> {
        if self.orders.is_empty() {
            return Ok(None);
        }
        let other = self.template.as_deref().map(|name| Template::for_model(name, &session.pretrained)).transpose()?;
        let template = other.as_ref().unwrap_or(&session.template);
        let evaluation = notebook::evaluate_as(session, template, &self.orders)?;
        if evaluation.interrupted {
            Err(Error::Interrupted { saved: None })
        } else {
            Ok(Some(evaluation.scores.exact_match))
        }
    }
}

/// A bar that fills up, and an ear for interrupts.
pub(super) struct Watch {
    name: String,
    /// Shown from the first step on: not every arm trains.
    bar: Option<Progress>,
    interrupted: bool,
}

impl Watch {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.into(), bar: None, interrupted: false }
    }
}

impl Observer for Watch {
    fn event(&mut self, event: &Event) {
        if let Event::Step(step) = event {
            let bar = self.bar.get_or_insert_with(|| Progress::new(step.total_steps as u64, &self.name));
            bar.message(format!("loss {:.3}", step.loss));
            bar.set(step.step as u64);
        }
        self.interrupted |= interrupt::asked();
    }

    fn cancelled(&self) -> bool {
        self.interrupted || interrupt::asked()
    }
}

#[cfg(test)]
pub(super) fn arm(name: &str, eval_loss: f64) -> Arm {
    Arm {
        name: name.into(),
        eval_loss,
        exact_match: None,
        answers: 0,
        perplexity: None,
        stopped: None,
        trained: 7,
        seconds: 1.0,
        tokens_per_second: None,
        memory: None,
        output_dir: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_put_together() {
        let arms = vec![arm("r = 1, seed 0", 1.0), arm("r = 1, seed 1", 3.0), arm("r = 4", 0.5)];
        let sweep = Sweep { arms, interrupted: false };
        let groups = sweep.groups();
        assert_eq!((groups.len(), groups[0].name.as_str(), groups[0].arms.len()), (2, "r = 1", 2));
        assert_eq!((groups[0].mean, groups[0].loss_range()), (2.0, (1.0, 3.0)));
        let text = sweep.table().to_text();
        assert!(text.contains("r = 1        7  2.0000  1.0000   3.0000     2"), "{text}");
        assert_eq!(sweep.live(), None);
    }

    #[test]
    fn where_a_run_writes_makes_no_difference_and_its_settings_do() {
        let trial = |config| Trial { name: String::new(), config, judge: Judge::default() };
        let config = RunConfig::default();
        let same = key(&trial(config.clone()));
        assert_eq!(same, key(&trial(RunConfig { output_dir: "elsewhere".into(), ..config.clone() })));
        assert_ne!(same, key(&trial(RunConfig { seed: 1, ..config.clone() })));
        let judge = Judge { template: Some("chat".into()), ..Judge::default() };
        assert_ne!(same, key(&Trial { judge, ..trial(config) }));
    }
}
