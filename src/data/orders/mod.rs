//! Synthetic data: orders at a Vietnamese coffee shop, with the JSON that the till wants.
//!
//! The course's task. A guest's order is drawn first, as data ([`Order`]); the sentence is made from it ([`phrasing`]) and
//! then worn down to what people type ([`noise`]). So the right answer is known because the order came first, and one
//! input has exactly one output. The rule for the output: what the guest says is in it, what is not said is not.
//!
//! The test split is new in two ways, both by construction. Its openers, joining words, corrections and closers are lists
//! of their own, so no sentence frame of the test occurs in training; and a hash of what is ordered ([`Line::held_out`])
//! keeps a quarter of all drinks-with-wishes and of all pairs of drinks for the test alone.

mod dice;
mod menu;
mod noise;
mod phrasing;

use std::collections::HashSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Record;
use crate::error::{Error, Result};
use dice::Dice;
pub use menu::{DRINKS, Drink, Kind};
pub use noise::without_accents;

/// The instruction of every record: "write the order down as JSON".
pub const INSTRUCTION: &str = "Ghi đơn thành JSON.";

/// The seed, and the sizes, of the committed files.
pub const SEED: u64 = 2026;
pub const TRAIN_EXAMPLES: usize = 2_100;
pub const TEST_EXAMPLES: usize = 240;

/// Which part of the data is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    Train,
    Test,
}

/// What a guest ordered: the record's output, as data. Fields stand in the order in which they are written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    pub items: Vec<Line>,
    /// `None`: the guest did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub takeaway: Option<bool>,
}

/// One drink of an order.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// 1 where the guest names no number.
    pub quantity: u32,
    /// As the menu spells it, with accents.
    pub name: String,
    /// `S`, `M` or `L`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
    /// `none`, `less`, `more`, or `separate` (ice beside the drink).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ice: Option<String>,
    /// `none`, `less`, `more`, `30%`, `50%` or `70%`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sugar: Option<String>,
    /// What is added, and `nóng` for a hot drink, in the order in which it was said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl Line {
    /// Whether this line belongs to the test alone: a quarter of all (drink, wishes), and of all (drink, number) where
    /// the guest has no wishes.
    pub fn held_out(&self) -> bool {
        let wishes = [&self.size, &self.ice, &self.sugar].map(|w| w.as_deref().unwrap_or("-")).join("/");
        let plain = wishes == "-/-/-" && self.notes.is_empty();
        let number = if plain { self.quantity } else { 0 };
        dice::hash(&format!("{}/{wishes}/{}/{number}", self.name, self.notes.join("+"))).is_multiple_of(4)
    }
}

/// Whether this pair of drinks, in either order, is ordered together in the test alone.
pub fn pair_held_out(a: &str, b: &str) -> bool {
    let (a, b) = if a < b { (a, b) } else { (b, a) };
    dice::hash(&format!("{a}+{b}")).is_multiple_of(4)
}

impl Order {
    /// The record's output: JSON without spaces.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// An order, the sentence it became, and that sentence's frame.
#[derive(Debug, Clone)]
pub struct Sample {
    pub order: Order,
    pub record: Record,
    /// The sentence before wear, with `{}` for each drink and its wishes.
    pub frame: String,
}

/// Makes `n` samples of `split`; no two have the same input. Same `seed`, same samples, on every machine.
///
/// Fewer come back only where the split has no more sentences to give, which is far above 100,000.
pub fn samples(seed: u64, split: Split, n: usize) -> Vec<Sample> {
    const PATIENCE: usize = 1_000;
    let mut dice = Dice::new(seed.wrapping_mul(2).wrapping_add(split as u64));
    let mut seen = HashSet::new();
    let mut made = Vec::with_capacity(n);
    let mut misses = 0;
    while made.len() < n && misses < PATIENCE {
        let order = menu::order(&mut dice, split);
        let sentence = phrasing::say(&order, &mut dice, split);
        let input = noise::wear(&sentence.text, &mut dice);
        if !seen.insert(input.clone()) {
            misses += 1;
            continue;
        }
        misses = 0;
        let record = Record { instruction: INSTRUCTION.into(), input, output: order.to_json(), ..Record::default() };
        made.push(Sample { order, record, frame: sentence.frame });
    }
    made
}

/// The records of [`samples`].
pub fn generate(seed: u64, split: Split, n: usize) -> Vec<Record> {
    samples(seed, split, n).into_iter().map(|sample| sample.record).collect()
}

/// Writes `train.jsonl` and `test.jsonl`, as they are committed, into `dir`.
///
/// # Errors
/// [`Error::Write`] where a file cannot be written.
pub fn write(dir: &Path) -> Result<()> {
    for (name, split, n) in [("train", Split::Train, TRAIN_EXAMPLES), ("test", Split::Test, TEST_EXAMPLES)] {
        let path = dir.join(format!("{name}.jsonl"));
        std::fs::write(&path, jsonl(&generate(SEED, split, n))).map_err(|e| Error::write(&path, e))?;
    }
    Ok(())
}

/// One JSON object a line.
pub fn jsonl(records: &[Record]) -> String {
    let line = |r: &Record| {
        let value = serde_json::json!({ "instruction": r.instruction, "input": r.input, "output": r.output });
        format!("{value}\n")
    };
    records.iter().map(line).collect()
}
