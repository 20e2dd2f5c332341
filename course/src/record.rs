//! What the cells of a lesson showed when they were last run: `lessons/records/<lesson>.json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::course::{read, write};
use crate::source::Cell;
use crate::{Course, Error, Result};

/// All of a lesson.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The day of the last run that changed something, and the machine.
    pub date: String,
    pub machine: String,
    /// Digests of the data that the cells read, by their paths from the root.
    pub data: BTreeMap<String, String>,
    /// By the cell's id, in the order of the lesson.
    pub cells: serde_json::Map<String, Value>,
}

/// One cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CellRecord {
    /// The digest of the lesson's code up to the cell's end.
    pub source: String,
    pub seconds: f64,
    pub outputs: Vec<Output>,
}

/// An output as a notebook has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "output_type", rename_all = "snake_case")]
pub enum Output {
    Stream { name: String, text: Lines },
    DisplayData { data: Map<String, Value>, metadata: Map<String, Value> },
    Error { ename: String, evalue: String, traceback: Vec<String> },
}

/// A text as notebooks have it, a line for each string, for readable differences.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lines(pub String);

impl Serialize for Lines {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.split_inclusive('\n'))
    }
}

impl<'de> Deserialize<'de> for Lines {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Vec::<String>::deserialize(deserializer)?.concat()))
    }
}

impl Output {
    /// A display of these contents, by MIME type.
    pub fn display(data: &Map<String, Value>) -> Self {
        let lines = |value: &Value| match value.as_str() {
            Some(text) => Value::from(text.split_inclusive('\n').collect::<Vec<_>>()),
            None => value.clone(),
        };
        let data = data.iter().map(|(mime, value)| (mime.clone(), lines(value))).collect();
        Self::DisplayData { data, metadata: Map::new() }
    }

    /// An error as the kernel shows it.
    pub fn error(ename: &str, evalue: &str) -> Self {
        let (first, rest) = evalue.split_once('\n').unwrap_or((evalue, ""));
        let traceback = std::iter::once(format!("\u{1b}[31m{ename}\u{1b}[0m: {first}"));
        let traceback = traceback.chain(rest.lines().map(str::to_owned)).collect();
        Self::Error { ename: ename.into(), evalue: evalue.into(), traceback }
    }

    /// The content of one type.
    pub fn content(&self, mime: &str) -> Option<String> {
        let Self::DisplayData { data, .. } = self else { return None };
        match data.get(mime)? {
            Value::String(text) => Some(text.clone()),
            Value::Array(lines) => Some(lines.iter().filter_map(Value::as_str).collect()),
            _ => None,
        }
    }

    /// What it says in words.
    pub fn text(&self) -> String {
        match self {
            Self::Stream { text, .. } => text.0.clone(),
            Self::DisplayData { .. } => self.content("text/plain").unwrap_or_default(),
            Self::Error { ename, evalue, .. } => format!("{ename}: {evalue}"),
        }
    }
}

impl Record {
    /// The record of a lesson; an empty one where there is none yet.
    ///
    /// Errors: [`Error::Lesson`] for a file that is no record.
    pub fn read(course: &Course, lesson: &str) -> Result<Self> {
        let path = course.record_path(lesson);
        if !path.is_file() {
            return Ok(Self::default());
        }
        serde_json::from_str(&read(&path)?).map_err(|e| {
            let hint = format!("Write it anew: `cargo course bless {lesson}`.");
            Error::lesson(format!("`{}`", path.display()), format!("is no record: {e}"), hint)
        })
    }

    /// Writes it; says whether anything changed.
    ///
    /// Errors: [`Error::File`].
    pub fn write(&self, course: &Course, lesson: &str) -> Result<bool> {
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        write(&course.record_path(lesson), &(text + "\n"))
    }

    /// What a cell showed.
    pub fn cell(&self, id: &str) -> Option<CellRecord> {
        serde_json::from_value(self.cells.get(id)?.clone()).ok()
    }

    /// Sets what a cell showed.
    pub fn set(&mut self, id: &str, cell: &CellRecord) {
        self.cells.insert(id.into(), serde_json::to_value(cell).unwrap_or_default());
    }

    /// How long the lesson's cells ran, in seconds.
    pub fn seconds(&self) -> f64 {
        self.cells.values().filter_map(|cell| cell["seconds"].as_f64()).sum()
    }
}

/// The digest of the code up to the end of each cell: what a cell shows depends on those before it.
pub fn source_digests(cells: &[Cell]) -> Vec<String> {
    let mut hash = Sha256::new();
    cells
        .iter()
        .map(|cell| {
            hash.update(format!("{}\n{}\n", cell.id, cell.code));
            short(&hash.clone().finalize())
        })
        .collect()
}

/// The digests of the data files that cells name.
///
/// Errors: [`Error::File`] for one that is not there.
pub fn data_digests(course: &Course, cells: &[Cell]) -> Result<BTreeMap<String, String>> {
    let strings = cells.iter().flat_map(|cell| cell.code.split('"').skip(1).step_by(2));
    let paths = strings.filter_map(|text| text.strip_prefix("../../")).filter(|path| path.starts_with("datasets/"));
    let digest = |path: &str| {
        let file = course.root().join(path);
        let bytes = std::fs::read(&file).map_err(Error::read(&file))?;
        Ok((path.to_owned(), short(&Sha256::digest(bytes))))
    };
    paths.map(digest).collect()
}

/// The first 64 bits, in hexadecimal digits.
pub(crate) fn short(digest: &[u8]) -> String {
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
