//! Results that are kept, by the settings that they were measured with.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::{Error, Result, files};

/// Where set, arms that run are put on record.
const RECORD: &str = "FERROTUNE_RECORD_ARMS";

/// Whether this process puts arms on record.
pub(super) fn wanted() -> bool {
    std::env::var_os(RECORD).is_some()
}

/// Settings that make a difference, as a digest.
pub(super) fn key(settings: &str) -> String {
    Sha256::digest(settings).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// What is on record in a file; nothing where there is none.
///
/// Errors: [`Error::Read`]; [`Error::Data`] for a file that is no record.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<BTreeMap<String, T>> {
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

/// Errors: [`Error::Write`].
pub(super) fn write<T: Serialize>(path: &Path, known: &BTreeMap<String, T>) -> Result<()> {
    let text = serde_json::to_string_pretty(known).unwrap_or_default();
    files::write_atomic(path, (text + "\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_is_none_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("arms.json");
        assert_eq!(read::<f64>(&path).unwrap().len(), 0);
        let known = BTreeMap::from([(key("a"), 1.5)]);
        write(&path, &known).unwrap();
        assert_eq!(read::<f64>(&path).unwrap(), known);
        std::fs::write(&path, "[]").unwrap();
        let error = read::<f64>(&path).unwrap_err().to_string();
        assert!(error.contains("arms.json") && error.contains("no record of arms"), "{error}");
    }
}
