//! The form of a lesson: what every one has, and how long its cells and pages may be.

use crate::record::Record;
use crate::{Course, Language, Page, Result};

const CELL_LINES: usize = 15;
const PAGE_LINES: usize = 300;
/// Sections that every lesson has, by their ids.
const SECTIONS: [&str; 7] = ["question", "prediction", "why", "break", "quiz", "exercises", "paper"];
const QUESTIONS: usize = 3;

/// Cells (`lesson/cell`) and pages (`lesson`) that may be longer, with the reason.
const EXEMPT: [(&str, &str); 0] = [];

pub(super) fn check(course: &Course, page: &Page, lesson: &str) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    let mut find = |what: String| findings.push(format!("{}: {what}", page.place));
    for id in SECTIONS {
        if !page.sections.iter().any(|section| section.id == id) {
            find(format!("there is no section `{id}`. Every lesson has {}.", SECTIONS.join(", ")));
        }
    }
    let body = |id: &str| page.sections.iter().find(|section| section.id == id).map_or("", |section| &section.body);
    let folded = |id: &str| body(id).matches("<details>").count();
    if folded("quiz") != QUESTIONS {
        find(format!("the quiz has {} folded answers. It has {QUESTIONS} questions.", folded("quiz")));
    }
    if folded("exercises") < 2 || !body("exercises").contains("{{#solution") {
        find("the exercises have no folded hint and solution (`{{#solution cell}}`).".into());
    }
    let cells = course.cells(lesson)?;
    if !cells.iter().any(|cell| cell.class.raises && body("break").contains(&format!("{{{{#cell {}}}}}", cell.id))) {
        find("the section `break` has no cell that fails on purpose (`raises-exception`).".into());
    }
    if page.lines > PAGE_LINES && !exempt(lesson) {
        find(format!("{} lines, and a page has {PAGE_LINES} at most. Say less, or make two pages of it.", page.lines));
    }
    for cell in &cells {
        let lines = cell.code.lines().count();
        if lines > CELL_LINES && !exempt(&format!("{lesson}/{}", cell.id)) {
            find(format!("the cell `{}` has {lines} lines, and a cell has {CELL_LINES} at most.", cell.id));
        }
    }
    let record = Record::read(course, lesson)?;
    let shown = cells.iter().filter_map(|cell| record.cell(&cell.id)).flat_map(|cell| cell.outputs);
    if !shown.into_iter().any(|output| output.content("image/svg+xml").is_some()) {
        find("no cell shows a figure. Every lesson has one.".into());
    }
    Ok(findings)
}

fn exempt(name: &str) -> bool {
    EXEMPT.iter().any(|(exempt, _)| *exempt == name)
}

/// Exemptions that nothing needs any more.
pub(super) fn stale_exemptions(course: &Course) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for (name, _) in EXEMPT {
        let (lesson, cell) = name.split_once('/').unwrap_or((name, ""));
        let cells = course.cells(lesson)?;
        let needed = match cells.iter().find(|other| other.id == cell) {
            Some(cell) => cell.code.lines().count() > CELL_LINES,
            None => {
                cell.is_empty()
                    && [Language::English, Language::Vietnamese]
                        .iter()
                        .any(|language| Page::read(course, *language, lesson).is_ok_and(|page| page.lines > PAGE_LINES))
            }
        };
        if !needed {
            findings.push(format!(
                "`{name}` needs no exemption any more. Take it off the list in `course/src/check/form.rs`."
            ));
        }
    }
    Ok(findings)
}
