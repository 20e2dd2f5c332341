//! What holds the lessons together: both languages, their records, their form.
//!
//! Each file is one promise; a finding is a paragraph that says what, where, and what to do.

mod form;
mod links;
mod numbers;
mod parity;
mod records;
mod vietnamese;

use std::path::Path;

use crate::{Course, Error, Language, Page, Result, notebook};

pub use links::in_book;
pub use parity::bless as bless_twins;

/// Everything that can be checked without running a cell.
///
/// Errors: [`Error::Findings`].
pub fn all(course: &Course) -> Result<()> {
    let mut findings = parity::check(course)?;
    let lessons = course.lessons()?;
    for name in course.pages(Language::English)? {
        for language in Language::ALL {
            let page = Page::read(course, language, &name)?;
            findings.extend(links::check(course, &page)?);
            if language == Language::Vietnamese {
                findings.extend(vietnamese::check(&page));
            }
            if lessons.contains(&name) {
                findings.extend(numbers::check(course, &page, &name)?);
                findings.extend(form::check(course, &page, &name)?);
            }
        }
    }
    findings.extend(form::stale_exemptions(course)?);
    for lesson in &lessons {
        findings.extend(records::check(course, lesson)?);
    }
    findings.extend(notebook::stale(course)?);
    settled(findings)
}

/// Builds the book in `folder` and follows its links.
///
/// Errors: [`Error::Findings`]; those of [`crate::book::build`].
pub fn book(course: &Course, folder: &Path) -> Result<()> {
    crate::book::build(course, folder)?;
    settled(in_book(folder)?)
}

fn settled(findings: Vec<String>) -> Result<()> {
    if findings.is_empty() { Ok(()) } else { Err(Error::Findings(findings)) }
}
