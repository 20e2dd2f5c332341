//! An experiment of several trainings, of which one runs now and the others are on record.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::data::Record;
use crate::show::{Progress, Table};
use crate::train::observer::Event;
use crate::train::{self, Observer, RunConfig};
use crate::{Error, Result, device, files, hub, interrupt};

/// Held-out examples that an arm is judged by.
const JUDGED: usize = 60;
/// Where set, arms that run are put on record.
const RECORD: &str = "FERROTUNE_RECORD_ARMS";

/// What a training of an experiment came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Arm {
    /// What sets it apart from the others; arms that differ by their seed alone have the same words before `, seed`.
    pub name: String,
    /// The mean loss of a trained token on held-out examples, in nats.
    pub eval_loss: f64,
    /// The share of held-out answers that are exactly right, where they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exact_match: Option<f64>,
    /// How many parameters were trained.
    pub trained: usize,
    pub seconds: f64,
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
    pub trained: usize,
    pub mean: f64,
    pub least: f64,
    pub most: f64,
    pub runs: usize,
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
/// Errors: those of [`sweep`] and [`super::evaluate`].
pub fn sweep_scored(record: &str, live: &str, arms: Vec<(String, RunConfig)>, orders: &[Record]) -> Result<Sweep> {
    let path = Path::new(record);
    let mut known = read(path)?;
    let mut sweep = Sweep::default();
    interrupt::begin();
    for (name, config) in arms {
        let key = key(&config);
        let old = known.get(&key).filter(|_| name != live);
        let arm = match old {
            Some(old) => Arm { name, ..old.clone() },
            None => match run(&name, config, orders) {
                Err(Error::Interrupted { .. }) => {
                    sweep.interrupted = true;
                    break;
                }
                arm => arm?,
            },
        };
        if std::env::var_os(RECORD).is_some() && !known.contains_key(&key) {
            known.insert(key, arm.clone());
            let text = serde_json::to_string_pretty(&known).unwrap_or_default();
            files::write_atomic(path, (text + "\n").as_bytes())?;
        }
        sweep.arms.push(arm);
    }
    Ok(sweep)
}

impl Sweep {
    /// The arms, those of different seeds together, in their order.
    pub fn groups(&self) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        for arm in &self.arms {
            let name = arm.name.split(", seed").next().unwrap_or_default();
            let loss = arm.eval_loss;
            match groups.iter_mut().find(|group| group.name == name) {
                Some(group) => {
                    group.mean = (group.mean * group.runs as f64 + loss) / (group.runs + 1) as f64;
                    (group.least, group.most) = (group.least.min(loss), group.most.max(loss));
                    group.runs += 1;
                }
                None => groups.push(Group {
                    name: name.into(),
                    trained: arm.trained,
                    mean: loss,
                    least: loss,
                    most: loss,
                    runs: 1,
                }),
            }
        }
        groups
    }

    /// Mean and spread of each group.
    pub fn table(&self) -> Table {
        let mut table = Table::new(["arm", "trained", "loss", "lowest", "highest", "runs"]).numeric();
        for group in self.groups() {
            let losses = [group.mean, group.least, group.most].map(|loss| format!("{loss:.4}"));
            let [trained, runs] = [group.trained, group.runs].map(|n| n.to_string());
            table.row([group.name, trained].into_iter().chain(losses).chain([runs]));
        }
        table
    }

    /// The loss of the arm that ran now, if one did.
    pub fn live(&self) -> Option<&Arm> {
        self.arms.iter().find(|arm| arm.output_dir.is_some())
    }
}

/// Settings that make a difference, as a digest.
fn key(config: &RunConfig) -> String {
    let config = RunConfig { output_dir: Default::default(), ..config.clone() };
    let digest = Sha256::digest(config.to_toml());
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn read(path: &Path) -> Result<BTreeMap<String, Arm>> {
    if !path.exists() {
        return Ok(BTreeMap::new());
    }
    let text = std::fs::read_to_string(path).map_err(|source| Error::Read {
        path: path.into(),
        hint: "It has the recorded arms of an experiment.".into(),
        source,
    })?;
    serde_json::from_str(&text).map_err(|e| {
        let hint = "Take it from the last commit, or remove it: then every arm runs.";
        Error::data("", format!("is no record of arms: {e}"), hint).in_file(path)
    })
}

fn run(name: &str, config: RunConfig, orders: &[Record]) -> Result<Arm> {
    let output_dir = Path::new("../../runs/arms").join(key(&config));
    // What an earlier run of the same settings left.
    if output_dir.exists() {
        let hint = "Remove it by hand, and run the cell again.".into();
        std::fs::remove_dir_all(&output_dir).map_err(|source| Error::Write {
            path: output_dir.clone(),
            hint,
            source,
        })?;
    }
    device::on_pool(|| {
        let config = RunConfig { output_dir, ..config };
        let device = device::choose(device::Wanted::Auto)?.device;
        let mut session = hub::session(config, device, &mut |_| {}, &mut (), |_, _| {})?;
        let mut watch = Watch { bar: Progress::new(0, name), interrupted: false };
        let end = train::run(&mut session, &mut watch);
        watch.bar.finish();
        let end = end?;
        let eval_loss = session.evaluation_loss(JUDGED)?;
        let trained = session.decoder.parameters().element_count();
        let scored = if orders.is_empty() { None } else { Some(super::evaluate(&session, orders)?) };
        let exact_match = scored.map(|scored| scored.scores.exact_match);
        let output_dir = Some(session.config.output_dir.clone());
        Ok(Arm { name: name.into(), eval_loss, exact_match, trained, seconds: end.train_seconds, output_dir })
    })
}

/// A bar that fills up, and an ear for interrupts.
struct Watch {
    bar: Progress,
    interrupted: bool,
}

impl Observer for Watch {
    fn event(&mut self, event: &Event) {
        if let Event::Step(step) = event {
            self.bar.total(step.total_steps as u64);
            self.bar.message(format!("loss {:.3}", step.loss));
            self.bar.set(step.step as u64);
        }
        self.interrupted |= interrupt::asked();
    }

    fn cancelled(&self) -> bool {
        self.interrupted || interrupt::asked()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arm(name: &str, eval_loss: f64) -> Arm {
        Arm { name: name.into(), eval_loss, exact_match: None, trained: 7, seconds: 1.0, output_dir: None }
    }

    #[test]
    fn seeds_are_put_together() {
        let arms = vec![arm("r = 1, seed 0", 1.0), arm("r = 1, seed 1", 3.0), arm("r = 4", 0.5)];
        let sweep = Sweep { arms, interrupted: false };
        let groups = sweep.groups();
        let first = Group { name: "r = 1".into(), trained: 7, mean: 2.0, least: 1.0, most: 3.0, runs: 2 };
        assert_eq!((groups.len(), &groups[0]), (2, &first));
        assert!(
            sweep.table().to_text().contains("r = 1        7  2.0000  1.0000   3.0000     2"),
            "{}",
            sweep.table().to_text()
        );
        assert_eq!(sweep.live(), None);
    }

    #[test]
    fn where_a_run_writes_makes_no_difference_and_its_settings_do() {
        let config = RunConfig::default();
        assert_eq!(key(&config), key(&RunConfig { output_dir: "elsewhere".into(), ..config.clone() }));
        assert_ne!(key(&config), key(&RunConfig { seed: 1, ..config.clone() }));
    }

    #[test]
    fn a_record_that_is_none_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("arms.json");
        assert_eq!(read(&path).unwrap().len(), 0);
        std::fs::write(&path, "[]").unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("arms.json") && error.contains("no record of arms"), "{error}");
    }
}
