//! A page as the Markdown that mdBook knows.

use super::{Words, outputs};
use crate::page::{Inline, excerpt, inline};
use crate::record::Record;
use crate::{Course, Error, Language, Page, Part, Result, diagram, math, values};

/// Words that a person reads in a minute, in a text that has to be thought about.
const WORDS_A_MINUTE: usize = 160;

/// The page `name` with its directives replaced.
///
/// Errors: [`Error::Lesson`] for a cell, a value, a formula or a drawing that is not there.
pub(super) fn markdown(course: &Course, name: &str, page: &Page) -> Result<String> {
    let is_lesson = course.cells_path(name).is_file();
    let cells = if is_lesson { course.cells(name)? } else { Vec::new() };
    let record = Record::read(course, name)?;
    let words = Words::of(page.language);
    let wrong = |what: String| Error::lesson(&page.place, what, "Mend the page, or run the lesson anew.");
    let mut text = String::new();
    for part in &page.parts {
        match part {
            Part::Markdown(markdown) => text += &replaced(course, markdown, &record).map_err(wrong)?,
            Part::Math(latex) => {
                let math = math::mathml(latex, true).map_err(wrong)?;
                text += &format!("<div class=\"math\">{math}</div>\n");
            }
            Part::Diagram { name, labels } => {
                let svg = diagram::draw(course, &page.place, name, labels)?;
                text += &format!("<figure class=\"diagram\">{svg}</figure>\n");
            }
            Part::Excerpt { file, anchor } => text += &excerpt(course, page, file, anchor)?,
            Part::Minutes => text += &minutes(page, name, &record, words),
            Part::Cell(id) | Part::Solution(id) => {
                let cell = cells.iter().find(|cell| cell.id == *id);
                let cell =
                    cell.ok_or_else(|| wrong(format!("there is no cell `{id}` in `lessons/cells/{name}.rs`")))?;
                let foreign = page.language == Language::Vietnamese;
                text += &outputs::cell(cell, record.cell(id).as_ref(), &record, words, foreign);
            }
        }
    }
    Ok(text)
}

/// Markdown with its values and formulas.
fn replaced(course: &Course, markdown: &str, record: &Record) -> Result<String, String> {
    let mut text = String::with_capacity(markdown.len());
    for piece in inline(markdown) {
        match piece {
            Inline::Text(plain) | Inline::Code(plain) => text += plain,
            Inline::Math(latex) => text += &math::mathml(latex, false)?,
            Inline::Value(words) => text += &values::look_up(course, record, words)?,
        }
    }
    Ok(text)
}

/// How long the page takes to read and its cells to run, and where its notebook is.
fn minutes(page: &Page, name: &str, record: &Record, words: &Words) -> String {
    let Words { read, run, minutes, under_a_minute, notebook, .. } = words;
    let text: usize = page.sections.iter().map(|section| section.body.split_whitespace().count()).sum();
    let reading = text.div_ceil(WORDS_A_MINUTE);
    let running = match record.seconds() {
        seconds if seconds < 60.0 => (*under_a_minute).to_owned(),
        seconds => format!("{:.0} {minutes}", (seconds / 60.0).ceil()),
    };
    let path = format!("notebooks/{}/{name}.ipynb", page.language.code());
    format!(
        "<p class=\"minutes\"><span>{read}: {reading} {minutes}</span> <span>{run}: {running}</span> \
         <span>{notebook}: <code>{path}</code></span></p>\n"
    )
}
