//! Reading records: a JSON array (`.json`), one JSON object a line (`.jsonl`), Parquet, or a folder of such files.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Record, columns, parquet};
use crate::error::{Error, Result};

/// Reads all records of `path`, in the file's order; a folder's files go by name.
///
/// What the columns may be called stands in `columns`; other columns are not looked at. A byte
/// order mark is skipped. Blank lines of a `.jsonl` file are skipped, but counted in the line numbers of messages.
///
/// # Errors
/// [`Error::Read`] where a file cannot be read. [`Error::Format`] where it is not UTF-8 (line named), not JSON (line and
/// column named), or not examples (line or row named, from 1). [`Error::Data`] where there is no example, or no such kind
/// of file is known.
pub fn load(path: &Path) -> Result<Vec<Record>> {
    let records = if path.is_dir() {
        let mut records = Vec::new();
        for file in files(path)? {
            records.extend(load_file(&file)?);
        }
        records
    } else {
        load_file(path)?
    };
    if records.is_empty() {
        let what = format!("`{}` holds no examples", path.display());
        return Err(Error::data("", what, columns::HINT));
    }
    Ok(records)
}

/// The data files of `folder`, by name.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|e| Error::read(folder, e))? {
        let path = entry.map_err(|e| Error::read(folder, e))?.path();
        if path.is_file() && matches!(extension(&path).as_str(), "json" | "jsonl" | "parquet") {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() {
        let what = format!("the folder `{}` holds no `.json`, `.jsonl` or `.parquet` file", folder.display());
        return Err(Error::data("", what, "Name a data file, or a folder that has some."));
    }
    Ok(files)
}

fn load_file(path: &Path) -> Result<Vec<Record>> {
    let parse = match extension(path).as_str() {
        "jsonl" => json_lines,
        "json" => json_array,
        "parquet" => return parquet::records(path),
        other => {
            // A path that is not there is the likelier mistake, and has the better message.
            std::fs::metadata(path).map_err(|e| Error::read(path, e))?;
            let what = match other {
                "" => format!("`{}` has no extension to tell its kind by", path.display()),
                other => format!("`{}` is a `.{other}` file, which cannot be read as data", path.display()),
            };
            return Err(Error::data(
                "",
                what,
                "Give a `.json` (one array), `.jsonl` (one object a line) or `.parquet` file.",
            ));
        }
    };
    let bytes = std::fs::read(path).map_err(|e| Error::read(path, e))?;
    let text = std::str::from_utf8(&bytes).map_err(|e| {
        let line = bytes[..e.valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
        let what = format!("the text is not UTF-8 (byte {} of the file)", e.valid_up_to() + 1);
        Error::format(path, format!("line {line}"), what, "Save the file as UTF-8.")
    })?;
    parse(path, text.strip_prefix('\u{feff}').unwrap_or(text))
}

fn extension(path: &Path) -> String {
    path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase()
}

fn json_lines(path: &Path, text: &str) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let value = serde_json::from_str(line).map_err(|e| {
            let hint = if text.trim_start().starts_with('[') {
                "A `.jsonl` file has one object a line; if the file is one array, name it `.json`."
            } else {
                "Each line must be one whole JSON object."
            };
            Error::format(path, format!("line {}, column {}", i + 1, e.column()), reason(&e), hint)
        })?;
        records.push(record(path, &format!("line {}", i + 1), value)?);
    }
    Ok(records)
}

fn json_array(path: &Path, text: &str) -> Result<Vec<Record>> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let value = serde_json::from_str(text).map_err(|e| {
        let hint = if reason(&e) == "trailing characters" {
            "A `.json` file is one array; if each line is an object of its own, name the file `.jsonl`."
        } else {
            "The file must be one JSON array of objects."
        };
        Error::format(path, format!("line {}, column {}", e.line(), e.column()), reason(&e), hint)
    })?;
    let Value::Array(rows) = value else {
        let what = format!("the file is {}, not an array of examples", columns::kind(&value));
        return Err(Error::format(path, "", what, columns::HINT));
    };
    rows.into_iter().enumerate().map(|(i, value)| record(path, &format!("row {}", i + 1), value)).collect()
}

/// serde_json's message without its own "at line 1 column 2".
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split_once(" at line ").map_or(text.clone(), |(reason, _)| reason.to_owned())
}

fn record(path: &Path, place: &str, value: Value) -> Result<Record> {
    match value {
        Value::Object(row) => columns::record(path, place, row),
        other => {
            let what = format!("this is {}, not an object", columns::kind(&other));
            Err(Error::format(path, place, what, columns::HINT))
        }
    }
}
