//! `prompt.json` in a run's folder: how to ask what was trained there.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Record;
use crate::error::{Error, Result};
use crate::files;

/// The text that a run was trained with, so that a bare line can be put into it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptFile {
    /// The template's name (see [`Template::named`](super::Template::named)).
    pub template: String,
    /// The one instruction of all records, where they share one.
    pub instruction: Option<String>,
}

impl PromptFile {
    /// The file's name.
    pub const NAME: &str = "prompt.json";

    /// Reads the file in `directory`; `None` where there is none, as in an adapter from elsewhere.
    ///
    /// # Errors
    /// [`Error::Format`] where it is there and broken.
    pub fn load(directory: &Path) -> Result<Option<Self>> {
        let path = directory.join(Self::NAME);
        if !path.exists() {
            return Ok(None);
        }
        serde_json::from_slice(&files::read(&path)?).map(Some).map_err(|e| {
            let place = format!("line {}", e.line());
            Error::format(&path, place, format!("not a run's prompt file ({e})"), "Delete it, or train again.")
        })
    }

    /// Writes the file into `directory`.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn save(&self, directory: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        files::write_atomic(&directory.join(Self::NAME), text.as_bytes())
    }

    /// What a bare line becomes: the input of the shared instruction, or an instruction of its own.
    pub fn record(&self, line: &str) -> Record {
        match &self.instruction {
            Some(instruction) => Record { instruction: instruction.clone(), input: line.into(), ..Record::default() },
            None => Record { instruction: line.into(), ..Record::default() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_back_and_wraps_a_line() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(PromptFile::load(directory.path()).unwrap(), None);
        let file = PromptFile { template: "alpaca".into(), instruction: Some("Ghi đơn.".into()) };
        file.save(directory.path()).unwrap();
        assert_eq!(PromptFile::load(directory.path()).unwrap(), Some(file.clone()));
        assert_eq!(file.record("một cà phê").input, "một cà phê");
        let general = PromptFile { instruction: None, ..file };
        assert_eq!(general.record("một cà phê").instruction, "một cà phê");
        std::fs::write(directory.path().join(PromptFile::NAME), "{").unwrap();
        assert!(PromptFile::load(directory.path()).unwrap_err().is_input());
    }
}
