//! Brings records up to date with what cells show now.

use std::process::Command;

use crate::compare::difference;
use crate::record::{CellRecord, Record, data_digests};
use crate::{Course, Result};

/// Keeps what the cells of `lesson` show `now`; returns the ids of those that changed.
///
/// Where a cell shows what its record allows, the record stays as it is, times included.
///
/// Errors: [`crate::Error::File`].
pub fn record(course: &Course, lesson: &str, now: &[(String, CellRecord)]) -> Result<Vec<String>> {
    let cells = course.cells(lesson)?;
    let old = Record::read(course, lesson)?;
    let mut new = Record { data: data_digests(course, &cells)?, ..Record::default() };
    let mut changed = Vec::new();
    for cell in &cells {
        let before = old.cell(&cell.id);
        let Some((_, after)) = now.iter().find(|(id, _)| *id == cell.id) else {
            // Recorded elsewhere.
            if let Some(before) = before {
                new.set(&cell.id, &before);
            }
            continue;
        };
        match before {
            Some(mut before) if difference(cell.class, &before, after).is_none() => {
                before.source.clone_from(&after.source);
                new.set(&cell.id, &before);
            }
            _ => {
                new.set(&cell.id, after);
                changed.push(cell.id.clone());
            }
        }
    }
    (new.date, new.machine) = if changed.is_empty() { (old.date, old.machine) } else { (today(), machine()) };
    new.write(course, lesson)?;
    Ok(changed)
}

/// The differences between what `lesson` shows `now` and its record, a paragraph each.
///
/// Errors: [`crate::Error::Lesson`] for a record that is none.
pub fn differences(course: &Course, lesson: &str, now: &[(String, CellRecord)]) -> Result<Vec<String>> {
    let record = Record::read(course, lesson)?;
    let mut findings = Vec::new();
    for cell in course.cells(lesson)? {
        let Some((_, after)) = now.iter().find(|(id, _)| *id == cell.id) else { continue };
        let what = match record.cell(&cell.id) {
            Some(before) => difference(cell.class, &before, after),
            None => Some("it has no record".into()),
        };
        if let Some(what) = what {
            findings.push(format!(
                "the cell `{}` of `lessons/cells/{lesson}.rs`: {what}. If that is right, run `cargo course bless {lesson}`.",
                cell.id
            ));
        }
    }
    Ok(findings)
}

/// The day in the form of ISO 8601.
fn today() -> String {
    let date = Command::new("date").args(["-u", "+%F"]).output();
    date.map(|date| String::from_utf8_lossy(&date.stdout).trim().to_owned()).unwrap_or_default()
}

/// The processor's name and how many of its cores there are.
fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = info.lines().find_map(|line| line.strip_prefix("model name"));
    let name = line.and_then(|line| line.split_once(':')).map_or("a processor without a name", |(_, name)| name.trim());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{cores} cores of {name}")
}
