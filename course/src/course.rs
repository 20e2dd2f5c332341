//! Where everything is: the repository, its lessons, its two languages.

use std::path::{Path, PathBuf};

use crate::source::{self, Cell};
use crate::{Error, Result};

/// The languages of the book.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    English,
    Vietnamese,
}

impl Language {
    /// Both, the one that the other is compared with first.
    pub const ALL: [Self; 2] = [Self::English, Self::Vietnamese];

    /// The name of its folders, which is its code in BCP 47.
    pub fn code(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::Vietnamese => "vi",
        }
    }

    /// Its own name for itself.
    pub fn name(self) -> &'static str {
        match self {
            Self::English => "English",
            Self::Vietnamese => "Tiếng Việt",
        }
    }

    /// The other one.
    #[must_use]
    pub fn twin(self) -> Self {
        match self {
            Self::English => Self::Vietnamese,
            Self::Vietnamese => Self::English,
        }
    }
}

/// A clone of the repository.
#[derive(Clone, Debug)]
pub struct Course {
    root: PathBuf,
}

impl Course {
    /// The course in the repository at `root`.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The repository that the current folder is in.
    ///
    /// Errors: [`Error::Lesson`] outside of a repository.
    pub fn here() -> Result<Self> {
        let here = std::env::current_dir().map_err(Error::read(Path::new(".")))?;
        let root = here.ancestors().find(|folder| folder.join("lessons/en/SUMMARY.md").is_file());
        root.map(Self::at).ok_or_else(|| {
            let what = "this folder is not in a clone of Ferrotune's repository";
            Error::lesson(format!("`{}`", here.display()), what, "Change into one and run this again.")
        })
    }

    /// The repository.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of a language's pages.
    pub fn pages_dir(&self, language: Language) -> PathBuf {
        self.root.join("lessons").join(language.code())
    }

    /// The file of a page.
    pub fn page_path(&self, language: Language, page: &str) -> PathBuf {
        self.pages_dir(language).join(format!("{page}.md"))
    }

    /// The file of a lesson's cells.
    pub fn cells_path(&self, lesson: &str) -> PathBuf {
        self.root.join("lessons/cells").join(format!("{lesson}.rs"))
    }

    /// The file of what a lesson's cells showed.
    pub fn record_path(&self, lesson: &str) -> PathBuf {
        self.root.join("lessons/records").join(format!("{lesson}.json"))
    }

    /// The file of a lesson's notebook.
    pub fn notebook_path(&self, language: Language, lesson: &str) -> PathBuf {
        self.root.join("notebooks").join(language.code()).join(format!("{lesson}.ipynb"))
    }

    /// The names of all pages, in the order of the summary; lessons are those with cells.
    ///
    /// Errors: [`Error::File`] without a summary.
    pub fn pages(&self, language: Language) -> Result<Vec<String>> {
        let summary = read(&self.pages_dir(language).join("SUMMARY.md"))?;
        let links = summary.split("](").skip(1).filter_map(|rest| rest.split_once(".md)"));
        Ok(links.map(|(name, _)| name.trim_start_matches("./").to_owned()).collect())
    }

    /// The names of the lessons, in order.
    ///
    /// Errors: those of [`Course::pages`].
    pub fn lessons(&self) -> Result<Vec<String>> {
        let mut pages = self.pages(Language::English)?;
        pages.retain(|page| self.cells_path(page).is_file());
        Ok(pages)
    }

    /// The cells of a lesson.
    ///
    /// Errors: [`Error::Lesson`] for a lesson that there isn't, or whose anchors are wrong.
    pub fn cells(&self, lesson: &str) -> Result<Vec<Cell>> {
        let path = self.cells_path(lesson);
        if !path.is_file() {
            let names = self.lessons()?.join(", ");
            return Err(Error::lesson(format!("`{lesson}`"), "there is no such lesson", format!("There are {names}.")));
        }
        source::cells(&read(&path)?)
            .map_err(|what| Error::lesson(format!("`lessons/cells/{lesson}.rs`"), what, "Mend the anchor."))
    }
}

/// A text file.
pub(crate) fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(Error::read(path))
}

/// Writes a text file where it isn't the same already; says whether it was not.
pub(crate) fn write(path: &Path, text: &str) -> Result<bool> {
    if std::fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(false);
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(Error::write(folder))?;
    std::fs::write(path, text).map_err(Error::write(path))?;
    Ok(true)
}
