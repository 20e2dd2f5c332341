//! A page of the book: Markdown with a few directives of its own.
//!
//! ```text
//! {{#minutes}}                      how long it takes to read and to run
//! {{#cell levels}}                  a cell and what it showed; alone on its line
//! {{#solution half}}                the same for an exercise's solution, which a notebook shows and does not run
//! {{#excerpt benches/README compare}} what stands between anchors of another page of the repository, in this language
//! {{#value bits; NF4; bits}}        a number that a cell showed: cell; row; column, or cell; label
//! {{#value nf4/bits; NF4; bits}}    the same of another lesson
//! `$r$`, and fences of `math`       LaTeX
//! fences of `diagram NAME`          a drawing of `lessons/figures`, with labels as TOML
//! ```

use crate::course::read;
use crate::record::short;
use crate::{Course, Error, Language, Result};
use sha2::{Digest, Sha256};

/// A page, taken apart.
#[derive(Clone, Debug)]
pub struct Page {
    /// Where it is, for messages.
    pub place: String,
    pub language: Language,
    pub parts: Vec<Part>,
    pub sections: Vec<Section>,
    /// Lines of its file.
    pub lines: usize,
}

/// A stretch of a page.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// Lines of Markdown, each ended; directives inside of lines are not replaced yet.
    Markdown(String),
    Cell(String),
    Solution(String),
    Minutes,
    /// The file, without what stands for the language in its name, and the anchor.
    Excerpt {
        file: String,
        anchor: String,
    },
    /// LaTeX, as a paragraph of its own.
    Math(String),
    Diagram {
        name: String,
        labels: String,
    },
}

/// A heading and what is below it, up to the next one.
#[derive(Clone, Debug, PartialEq)]
pub struct Section {
    /// 1 for the page's title.
    pub level: usize,
    pub id: String,
    pub title: String,
    pub body: String,
    /// Of the heading, from 1.
    pub line: usize,
}

impl Page {
    /// Reads a page.
    ///
    /// Errors: [`Error::Lesson`] for a heading without an id, and for a fence that is not closed.
    pub fn read(course: &Course, language: Language, name: &str) -> Result<Self> {
        let place = format!("`lessons/{}/{name}.md`", language.code());
        Self::parse(&read(&course.page_path(language, name))?, language, place)
    }

    pub(crate) fn parse(text: &str, language: Language, place: String) -> Result<Self> {
        let mut page = Self { place, language, parts: Vec::new(), sections: Vec::new(), lines: text.lines().count() };
        let mut fence: Option<(String, String)> = None;
        for (number, line) in (1..).zip(text.lines()) {
            if let Some(section) = page.sections.last_mut() {
                section.body += line;
                section.body.push('\n');
            }
            if let Some((opening, body)) = &mut fence {
                if line.trim() == "```" {
                    let part = fenced(opening, body);
                    page.push(part);
                    fence = None;
                } else {
                    *body += line;
                    body.push('\n');
                }
                continue;
            }
            if let Some(opening) = line.trim().strip_prefix("```") {
                fence = Some((opening.to_owned(), String::new()));
                continue;
            }
            if let Some(section) = heading(line, number).transpose().map_err(|what| page.wrong(number, &what))? {
                // The heading is not part of the section before it.
                if let Some(before) = page.sections.last_mut() {
                    before.body.truncate(before.body.len() - line.len() - 1);
                }
                page.sections.push(section);
            }
            let part = directive(line).unwrap_or_else(|| Part::Markdown(format!("{line}\n")));
            page.push(part);
        }
        match fence {
            Some((opening, _)) => Err(page.wrong(page.lines, &format!("the fence `{opening}` is not closed"))),
            None => Ok(page),
        }
    }

    fn push(&mut self, part: Part) {
        match (self.parts.last_mut(), part) {
            (Some(Part::Markdown(before)), Part::Markdown(more)) => *before += &more,
            (_, part) => self.parts.push(part),
        }
    }

    fn wrong(&self, line: usize, what: &str) -> Error {
        Error::lesson(format!("{}, line {line}", self.place), what, "Mend the page.")
    }

    /// The title, from the first heading.
    pub fn title(&self) -> &str {
        self.sections.first().map_or("", |section| &section.title)
    }

    /// The ids of the cells, solutions among them, in order.
    pub fn cells(&self) -> Vec<&str> {
        fn id(part: &Part) -> Option<&str> {
            match part {
                Part::Cell(id) | Part::Solution(id) => Some(id),
                _ => None,
            }
        }
        self.parts.iter().filter_map(id).collect()
    }
}

/// What stands between the lines `<!-- ANCHOR: anchor -->` and `<!-- ANCHOR_END: anchor -->` of `file.md`, or of `file.vi.md`.
///
/// Errors: [`Error::Lesson`] where there is no such file or anchor.
pub(crate) fn excerpt(course: &Course, page: &Page, file: &str, anchor: &str) -> Result<String> {
    let suffix = if page.language == Language::English { "md" } else { "vi.md" };
    let name = format!("{file}.{suffix}");
    let text = read(&course.root().join(&name))?;
    let between = text.split_once(&format!("<!-- ANCHOR: {anchor} -->\n"));
    let between = between.and_then(|(_, rest)| rest.split_once(&format!("<!-- ANCHOR_END: {anchor} -->")));
    let (between, _) = between.ok_or_else(|| {
        Error::lesson(&page.place, format!("`{name}` has no anchor `{anchor}`"), "Name one that it has.")
    })?;
    Ok(between.into())
}

impl Section {
    /// The digest of its heading and body.
    pub fn digest(&self) -> String {
        short(&Sha256::digest(format!("{}\n{}", self.title, self.body.trim())))
    }
}

fn fenced(opening: &str, body: &str) -> Part {
    let mut words = opening.split_whitespace();
    match (words.next(), words.next()) {
        (Some("math"), None) => Part::Math(body.trim().into()),
        (Some("diagram"), Some(name)) => Part::Diagram { name: name.into(), labels: body.into() },
        _ => Part::Markdown(format!("```{opening}\n{body}```\n")),
    }
}

fn directive(line: &str) -> Option<Part> {
    let words = line.trim().strip_prefix("{{#")?.strip_suffix("}}")?;
    match words.split_once(' ').map_or((words, ""), |(name, rest)| (name, rest.trim())) {
        ("cell", id) => Some(Part::Cell(id.into())),
        ("solution", id) => Some(Part::Solution(id.into())),
        ("minutes", "") => Some(Part::Minutes),
        ("excerpt", words) => {
            let (file, anchor) = words.split_once(' ')?;
            Some(Part::Excerpt { file: file.into(), anchor: anchor.into() })
        }
        _ => None,
    }
}

/// The section that a line begins: `## Title {#id}`.
fn heading(line: &str, number: usize) -> Option<Result<Section, String>> {
    let level = line.bytes().take_while(|b| *b == b'#').count();
    let title = line.get(level..)?.strip_prefix(' ').filter(|_| level > 0)?;
    Some(match title.strip_suffix('}').and_then(|title| title.rsplit_once(" {#")) {
        Some((title, id)) => {
            Ok(Section { level, id: id.into(), title: title.into(), body: String::new(), line: number })
        }
        None => Err(format!("the heading `{title}` has no id (`## Title {{#id}}`), which both languages share")),
    })
}

/// A piece of a line.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Inline<'t> {
    Text(&'t str),
    /// What stands between `{{#value ` and `}}`.
    Value(&'t str),
    /// LaTeX.
    Math(&'t str),
    /// Code, with its backticks.
    Code(&'t str),
}

/// Takes Markdown apart; fenced code is text.
pub(crate) fn inline(text: &str) -> Vec<Inline<'_>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut plain = 0;
    let mut in_fence = false;
    while plain < rest.len() {
        let here = &rest[plain..];
        let line_start = plain == 0 && pieces.is_empty() || rest[..plain].ends_with('\n');
        if line_start && here.starts_with("```") {
            in_fence = !in_fence;
            plain += here.find('\n').map_or(here.len(), |end| end + 1);
            continue;
        }
        let found = if in_fence { None } else { piece(here) };
        match found {
            Some((piece, length)) => {
                if plain > 0 {
                    pieces.push(Inline::Text(&rest[..plain]));
                }
                pieces.push(piece);
                rest = &here[length..];
                plain = 0;
            }
            None => plain += here.chars().next().map_or(1, char::len_utf8),
        }
    }
    if !rest.is_empty() {
        pieces.push(Inline::Text(rest));
    }
    pieces
}

fn piece(text: &str) -> Option<(Inline<'_>, usize)> {
    if let Some(rest) = text.strip_prefix("{{#value ") {
        let (words, _) = rest.split_once("}}")?;
        return Some((Inline::Value(words), "{{#value ".len() + words.len() + 2));
    }
    if let Some(rest) = text.strip_prefix("`$") {
        let (latex, _) = rest.split_once("$`")?;
        return Some((Inline::Math(latex), latex.len() + 4));
    }
    let code = text.strip_prefix('`').filter(|rest| !rest.starts_with('`'))?;
    let (code, _) = code.split_once('`')?;
    Some((Inline::Code(&text[..code.len() + 2]), code.len() + 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(text: &str) -> Result<Page> {
        Page::parse(text, Language::English, "`x.md`".into())
    }

    #[test]
    fn a_page_is_text_cells_and_sections() {
        let text = "# T {#t}\n\nWords\n\n{{#cell one}}\n\n## S {#s}\n```math\nx^2\n```\n```rust\n# no heading\n```\n";
        let page = page(text).unwrap();
        assert_eq!(page.parts[1], Part::Cell("one".into()));
        assert_eq!(page.parts[3], Part::Math("x^2".into()));
        assert_eq!(page.parts[4], Part::Markdown("```rust\n# no heading\n```\n".into()));
        let heads: Vec<_> = page.sections.iter().map(|s| (s.level, s.id.as_str(), s.line)).collect();
        assert_eq!(heads, [(1, "t", 1), (2, "s", 7)]);
        assert_eq!(page.sections[0].body, "\nWords\n\n{{#cell one}}\n\n");
        assert_eq!((page.title(), page.cells()), ("T", vec!["one"]));
    }

    #[test]
    fn a_heading_needs_an_id_and_a_fence_an_end() {
        let error = |text| page(text).unwrap_err().to_string();
        assert!(error("# T\n").contains("`x.md`, line 1: the heading `T` has no id"));
        assert!(error("```math\nx\n").contains("the fence `math` is not closed"));
    }

    #[test]
    fn lines_have_values_mathematics_and_code() {
        let pieces = inline("a `$r$` b `c` {{#value x; y}}.\n```\n`$no$`\n```\n`$s$`");
        let expected = [
            Inline::Text("a "),
            Inline::Math("r"),
            Inline::Text(" b "),
            Inline::Code("`c`"),
            Inline::Text(" "),
            Inline::Value("x; y"),
            Inline::Text(".\n```\n`$no$`\n```\n"),
            Inline::Math("s"),
        ];
        assert_eq!(pieces, expected);
    }
}
