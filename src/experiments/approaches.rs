//! The approaches of the decision framework tried on one task, of which some run now and the others are on record.

use std::collections::BTreeMap;
use std::path::Path;

use super::record;
use super::sweep::{Watch, clear};
use crate::data::orders::Split;
use crate::decide::arms::{self, Comparison};
use crate::decide::{Arm, Measured, Menu, Rates, task};
use crate::show::Progress;
use crate::train::RunConfig;
use crate::{Error, Result, device, hub, interrupt};

/// What is on record of each arm, by the settings that it was measured with.
type Record = BTreeMap<String, Measured>;

/// A coffee shop's task, before and after its menu changes.
#[derive(Clone, Debug)]
pub struct Task {
    pub before: Menu,
    pub after: Menu,
    /// Orders to train on.
    pub examples: usize,
    /// Held-out orders.
    pub orders: usize,
}

impl Task {
    /// The task of `datasets/menu`, found from a notebook's folder.
    ///
    /// Errors: those of [`Menu::load`].
    pub fn new(examples: usize, orders: usize) -> Result<Self> {
        let menu = |name: &str| Menu::load(&Path::new("../../datasets/menu").join(name));
        Ok(Self { before: menu("menu.jsonl")?, after: menu("menu-new.jsonl")?, examples, orders })
    }
}

/// Tries the arms called `live`, and those that are not on record at `path`; takes the others from there.
///
/// An interrupt ends it with what is finished. Trainings leave their files in `../../runs/approaches`.
///
/// Errors: those of [`Comparison::run`]; [`Error::Data`] for a record that is none.
pub fn approaches(path: &str, live: &[Arm], task: &Task) -> Result<Vec<Measured>> {
    let path = Path::new(path);
    let mut known: Record = record::read(path)?;
    let model = "smollm2-135m";
    let files = hub::resolve(model)?;
    let mut comparison = Comparison {
        model: &files,
        base_model: hub::base_model(model),
        before: task.before.clone(),
        after: task.after.clone(),
        train: task::cases(Split::Train, task.examples),
        test: task::cases(Split::Test, task.orders),
        config: RunConfig { model: model.into(), ..arms::training() },
        device: device::choose(device::Wanted::Auto)?.device,
    };
    let mut measured = Vec::new();
    interrupt::begin();
    for arm in Arm::ALL {
        let key = key(arm, task, comparison.training(arm));
        if let Some(old) = known.get(&key).filter(|_| !live.contains(&arm)) {
            measured.push(*old);
            continue;
        }
        comparison.config.output_dir = Path::new("../../runs/approaches").join(&key);
        clear(&comparison.config.output_dir)?;
        let mut watch = Watch::new(arm.name());
        let mut bar = Progress::new(0, format!("{}: answers", arm.name()));
        let mut answered = |done: usize, all: usize| {
            bar.total(all as u64);
            bar.set(done as u64);
        };
        let new = match device::on_pool(|| comparison.run(arm, &mut watch, &mut answered)) {
            Err(Error::Interrupted { .. }) => break,
            new => new?,
        };
        if record::wanted() && !known.contains_key(&key) {
            known.insert(key, new);
            record::write(path, &known)?;
        }
        measured.push(new);
    }
    Ok(measured)
}

/// How fast this machine reads a prompt of the model called `name`, and writes an answer.
///
/// Errors: those of [`hub::resolve`] and [`Rates::measure`].
pub fn query_rates(name: &str) -> Result<Rates> {
    let device = device::choose(device::Wanted::Auto)?.device;
    device::on_pool(|| Rates::measure(&hub::resolve(name)?, &device))
}

/// Settings that make a difference, as a digest.
fn key(arm: Arm, task: &Task, config: RunConfig) -> String {
    let config = RunConfig { output_dir: Default::default(), ..config };
    let settings =
        format!("{arm:?} {:?} {:?} {} {}\n{}", task.before, task.after, task.examples, task.orders, config.to_toml());
    record::key(&settings)
}
