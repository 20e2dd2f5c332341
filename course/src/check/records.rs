//! Records are those of the code and the data that there are.

use crate::record::{Record, data_digests, source_digests};
use crate::{Course, Language, Page, Result};

pub(super) fn check(course: &Course, lesson: &str) -> Result<Vec<String>> {
    let record = Record::read(course, lesson)?;
    let cells = course.cells(lesson)?;
    let page = Page::read(course, Language::English, lesson)?;
    let shown = page.cells();
    let mut findings = Vec::new();
    for (cell, digest) in cells.iter().zip(source_digests(&cells)) {
        if record.cell(&cell.id).is_none_or(|recorded| recorded.source != digest) {
            findings.push(format!(
                "the cell `{}` of `lessons/cells/{lesson}.rs` or one before it is not the code that its record is of. \
                 Run `cargo course bless {lesson}`.",
                cell.id
            ));
            break;
        }
    }
    let order: Vec<&str> = cells.iter().map(|cell| cell.id.as_str()).collect();
    if shown != order {
        findings.push(format!(
            "{} shows the cells {}, `lessons/cells/{lesson}.rs` has {}. Show every cell once, in the order in which they run.",
            page.place,
            shown.join(", "),
            order.join(", ")
        ));
    }
    if record.cells.keys().any(|id| !order.contains(&id.as_str())) {
        findings.push(format!(
            "`lessons/records/{lesson}.json` has cells that there are no more. Run `cargo course bless {lesson}`."
        ));
    }
    if record.data != data_digests(course, &cells)? {
        findings.push(format!("the data of `{lesson}` is not that of its record. Run `cargo course bless {lesson}`."));
    }
    Ok(findings)
}
