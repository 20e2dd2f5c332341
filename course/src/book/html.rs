//! What mdBook's pages lack: the way to the other language, a way past the menus, the interface in Vietnamese.

use std::path::{Path, PathBuf};

use super::Words;
use crate::course::{read, write};
use crate::{Course, Error, Language, Result};

/// Finishes the pages of one language.
///
/// Errors: [`Error::Book`] where mdBook's pages are not as they were when this was written.
pub(super) fn finish(course: &Course, language: Language, folder: &Path) -> Result<()> {
    let words = Words::of(language);
    let pages: Vec<PathBuf> = course.pages(language)?.iter().map(|page| folder.join(format!("{page}.html"))).collect();
    let mut seen = vec![false; words.interface.len()];
    for path in &pages {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let mut html = read(path)?;
        for ((english, own), seen) in words.interface.iter().zip(&mut seen) {
            *seen |= html.contains(english);
            html = html.replace(english, own);
        }
        for (place, new) in additions(language, words, name) {
            if !html.contains(place) {
                return Err(Error::Book(format!(
                    "mdBook's page `{name}` has no `{place}`; `course/src/book/html.rs` needs it."
                )));
            }
            html = html.replacen(place, &new, 1);
        }
        write(path, &html)?;
    }
    // Admonitions stand only on some pages.
    let lost = words.interface.iter().zip(seen).find(|((english, _), seen)| !seen && !english.starts_with("</svg>"));
    match lost {
        Some(((english, _), _)) => Err(Error::Book(format!(
            "mdBook does not say `{english}` any more; `course/src/book/words.rs` translates it."
        ))),
        None => Ok(()),
    }
}

/// Places in a page and what takes them.
fn additions(language: Language, words: &Words, name: &str) -> [(&'static str, String); 4] {
    let twin = language.twin();
    let (code, own) = (twin.code(), twin.name());
    let alternate = |language: Language| {
        let code = language.code();
        format!("<link rel=\"alternate\" hreflang=\"{code}\" href=\"../{code}/{name}\">\n")
    };
    let skip = words.skip;
    [
        ("</head>", format!("{}{}</head>", alternate(Language::English), alternate(Language::Vietnamese))),
        ("<body>", format!("<body>\n<a class=\"skip\" href=\"#mdbook-content\">{skip}</a>")),
        (
            "<div class=\"right-buttons\">",
            format!(
                "<div class=\"right-buttons\">\n<a class=\"language\" href=\"../{code}/{name}\" hreflang=\"{code}\" lang=\"{code}\">{own}</a>"
            ),
        ),
        (
            "<div id=\"mdbook-content\" class=\"content\">",
            "<div id=\"mdbook-content\" class=\"content\" tabindex=\"-1\">".into(),
        ),
    ]
}

/// The page above both languages.
pub(super) fn entrance() -> String {
    let choice = |language: Language| {
        let Words { title, description, .. } = Words::of(language);
        let (code, name) = (language.code(), language.name());
        format!(
            "<a href=\"{code}/index.html\" hreflang=\"{code}\" lang=\"{code}\"><small>{name}</small><strong>{title}</strong><span>{description}</span></a>\n"
        )
    };
    let choices: String = Language::ALL.map(choice).concat();
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"UTF-8\">\n<title>Ferrotune</title>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<style>\n{STYLE}</style>\n</head>\n\
         <body>\n<main>\n<h1>Ferrotune</h1>\n<nav aria-label=\"Language\">\n{choices}</nav>\n</main>\n</body>\n</html>\n"
    )
}

const STYLE: &str = include_str!("../../theme/entrance.css");
