//! The book in two languages, by mdBook.
//!
//! `chapter` turns a page into the Markdown that mdBook knows, `outputs` shows what cells showed, `html` finishes the pages
//! that mdBook wrote, `words` has what the program itself says in each language.

mod chapter;
mod html;
mod outputs;
mod words;

use std::path::{Path, PathBuf};

use mdbook_driver::MDBook;
use mdbook_driver::book::{Book, BookItem};
use mdbook_driver::config::Config;
use mdbook_driver::errors::Error as BookError;

use crate::course::{read, write};
use crate::{Course, Error, Language, Page, Result};

pub(crate) use words::Words;

/// Builds both languages and the page that offers them below `out`, and returns that page.
///
/// Errors: [`Error::Lesson`] for what is wrong in a page, [`Error::Book`] for what mdBook says.
pub fn build(course: &Course, out: &Path) -> Result<PathBuf> {
    for language in Language::ALL {
        let folder = out.join(language.code());
        // What an older book left would still be found.
        if folder.exists() {
            std::fs::remove_dir_all(&folder).map_err(Error::write(&folder))?;
        }
        build_one(course, language, &folder)?;
        html::finish(course, language, &folder)?;
    }
    let index = out.join("index.html");
    write(&index, &html::entrance())?;
    Ok(index)
}

fn build_one(course: &Course, language: Language, folder: &Path) -> Result<()> {
    let failed = |e: BookError| Error::Book(format!("{e:#}"));
    let mut config: Config = read(&course.root().join("book.toml"))?.parse().map_err(failed)?;
    let words = Words::of(language);
    config.book.title = Some(words.title.into());
    config.book.description = Some(words.description.into());
    config.book.language = Some(language.code().into());
    config.book.src = Path::new("lessons").join(language.code());
    config.build.build_dir = folder.into();
    // It runs here, not as a program of its own.
    config.set("preprocessor", toml::Table::new()).map_err(failed)?;
    let mut book = MDBook::load_with_config(course.root(), config).map_err(failed)?;
    chapters(course, language, &mut book.book)?;
    book.build().map_err(failed)
}

/// Replaces the text of every chapter.
///
/// Errors: [`Error::Lesson`].
pub fn chapters(course: &Course, language: Language, book: &mut Book) -> Result<()> {
    let mut result = Ok(());
    book.for_each_mut(|item| {
        let BookItem::Chapter(chapter) = item else { return };
        let name = chapter.path.as_deref().and_then(Path::file_stem).and_then(|stem| stem.to_str());
        let Some(name) = name.filter(|_| result.is_ok()) else { return };
        match Page::read(course, language, name).and_then(|page| chapter::markdown(course, name, &page)) {
            Ok(text) => chapter.content = text,
            Err(e) => result = Err(e),
        }
    });
    result
}
