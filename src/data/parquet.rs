//! Rows of a Parquet file, the form in which the Hub keeps data sets.

use std::fs::File;
use std::path::Path;

use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::Value;

use super::{Record, columns};
use crate::error::{Error, Result};

/// Reads all records of a Parquet file.
///
/// Errors: [`Error::Read`]; [`Error::Format`] for a file that is damaged or cut short, or with the row that is no example.
pub(super) fn records(path: &Path) -> Result<Vec<Record>> {
    let damaged = |place: &str, e: &dyn std::fmt::Display| {
        let what = format!("this is not a whole Parquet file ({})", e.to_string().trim_end_matches('.'));
        Error::format(path, place, what, "The file is damaged or incomplete; copy or fetch it again.")
    };
    let file = File::open(path).map_err(|e| Error::read(path, e))?;
    let reader = SerializedFileReader::new(file).map_err(|e| damaged("", &e))?;
    let rows = reader.get_row_iter(None).map_err(|e| damaged("", &e))?;
    let mut records = Vec::new();
    for (i, row) in rows.enumerate() {
        let place = format!("row {}", i + 1);
        let row = row.map_err(|e| damaged(&place, &e))?;
        let Value::Object(row) = row.to_json_value() else { continue };
        records.push(columns::record(path, &place, row)?);
    }
    Ok(records)
}
