//! `metrics.jsonl`: one JSON object for each optimizer step and each evaluation, on disk as soon as it is made.

use crate::{Error, Result, files};
use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The file's name in a run's folder.
pub const METRICS_FILE: &str = "metrics.jsonl";

/// Appends rows to a run's metrics.
#[derive(Debug)]
pub struct MetricsWriter {
    file: File,
    path: PathBuf,
}

impl MetricsWriter {
    /// Opens the metrics of the run in `directory`, keeping the rows of steps up to `last_step` and no others.
    ///
    /// Errors: [`Error::Write`].
    pub fn open(directory: &Path, last_step: usize) -> Result<Self> {
        let path = directory.join(METRICS_FILE);
        let kept: String = match std::fs::read_to_string(&path) {
            Ok(text) => text.lines().filter(|line| step_of(line).is_some_and(|s| s <= last_step)).fold(
                String::new(),
                |mut all, line| {
                    all.push_str(line);
                    all.push('\n');
                    all
                },
            ),
            Err(_) => String::new(),
        };
        files::write_atomic(&path, kept.as_bytes())?;
        let file = OpenOptions::new().append(true).open(&path).map_err(|e| Error::write(&path, e))?;
        Ok(Self { file, path })
    }

    /// Writes one row.
    ///
    /// Errors: [`Error::Write`].
    pub fn row(&mut self, row: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_string(row)
            .map_err(|e| Error::Shape { op: "metrics", what: format!("a row cannot be written as JSON: {e}") })?;
        line.push('\n');
        // One write a line, so that a reader never sees half of one.
        self.file.write_all(line.as_bytes()).map_err(|e| Error::write(&self.path, e))
    }
}

fn step_of(line: &str) -> Option<usize> {
    let row: serde_json::Value = serde_json::from_str(line).ok()?;
    Some(row.get("step")?.as_u64()? as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn resuming_drops_later_rows_and_half_lines() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = MetricsWriter::open(dir.path(), 0).unwrap();
        for step in 1..=4 {
            writer.row(&json!({"step": step})).unwrap();
        }
        let path = dir.path().join(METRICS_FILE);
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"st").unwrap();
        MetricsWriter::open(dir.path(), 2).unwrap().row(&json!({"step": 3, "again": true})).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "{\"step\":1}\n{\"step\":2}\n{\"step\":3,\"again\":true}\n");
    }
}
