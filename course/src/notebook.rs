//! A lesson as a notebook, with what its cells showed.

use serde_json::{Value, json};

use crate::book::Words;
use crate::course::{read, write};
use crate::page::{Inline, excerpt, inline};
use crate::record::Record;
use crate::{Course, Error, Language, Page, Part, Result, diagram, values};

/// What every notebook begins with; our kernel has run it already, evcxr's own runs it.
const SETUP: &str = ":dep ferrotune-prelude = { path = \"../../kernel/prelude\" }\nuse ferrotune_prelude::*;";

/// The notebook of `lesson`, as the text of its file.
///
/// Errors: [`Error::Lesson`] for what its page names and is not there.
pub fn generate(course: &Course, language: Language, lesson: &str) -> Result<String> {
    let page = Page::read(course, language, lesson)?;
    let cells = course.cells(lesson)?;
    let record = Record::read(course, lesson)?;
    let wrong = |what: String| Error::lesson(&page.place, what, "Mend the page, or run the lesson anew.");
    let find = |id: &str| {
        let cell = cells.iter().find(|cell| cell.id == id);
        cell.ok_or_else(|| wrong(format!("there is no cell `{id}` in `lessons/cells/{lesson}.rs`")))
    };
    let mut notebook = Notebook::default();
    for part in &page.parts {
        match part {
            Part::Markdown(text) => notebook.markdown(&replaced(course, text, &record).map_err(wrong)?),
            Part::Math(latex) => notebook.markdown(&format!("$$\n{latex}\n$$\n")),
            Part::Diagram { name, labels } => {
                let svg = diagram::draw(course, &page.place, name, labels)?;
                let alt = svg.split("aria-label=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default();
                notebook.markdown(&format!("<img alt=\"{alt}\" src=\"data:image/svg+xml;utf8,{}\">\n", percent(&svg)));
            }
            Part::Excerpt { file, anchor } => notebook.markdown(&excerpt(course, &page, file, anchor)?),
            Part::Minutes => notebook.setup(language),
            Part::Solution(id) => {
                let cell = find(id)?;
                let shown = record.cell(id).map(|shown| shown.outputs).unwrap_or_default();
                let shown: String = shown.iter().map(|output| output.text()).collect();
                let shown = if shown.is_empty() { shown } else { format!("```text\n{}\n```\n", shown.trim_end()) };
                notebook.markdown(&format!("```rust\n{}\n```\n{shown}", cell.code));
            }
            Part::Cell(id) => {
                let cell = find(id)?;
                let outputs = record.cell(id).map(|shown| json!(shown.outputs)).unwrap_or_else(|| json!([]));
                notebook.code(id, &cell.code, &cell.class.tags(), outputs);
            }
        }
    }
    notebook.text(language).map_err(|what| Error::lesson(format!("the notebook of `{lesson}`"), what, "Mend the page."))
}

/// Writes the notebooks of all lessons; returns the paths of those that were not the same already.
///
/// Errors: those of [`generate`]; [`Error::File`].
pub fn write_all(course: &Course) -> Result<Vec<String>> {
    let mut changed = Vec::new();
    for lesson in course.lessons()? {
        for language in Language::ALL {
            let path = course.notebook_path(language, &lesson);
            if write(&path, &generate(course, language, &lesson)?)? {
                changed.push(path.display().to_string());
            }
        }
    }
    Ok(changed)
}

/// The notebooks that are not what their sources make.
///
/// Errors: those of [`generate`].
pub fn stale(course: &Course) -> Result<Vec<String>> {
    let mut stale = Vec::new();
    for lesson in course.lessons()? {
        for language in Language::ALL {
            let path = course.notebook_path(language, &lesson);
            if read(&path).unwrap_or_default() != generate(course, language, &lesson)? {
                let name = format!("notebooks/{}/{lesson}.ipynb", language.code());
                stale.push(format!("`{name}` is not what its sources make. Run `cargo course bless`."));
            }
        }
    }
    Ok(stale)
}

/// The cells so far; Markdown that is not in a cell yet.
#[derive(Default)]
struct Notebook {
    cells: Vec<Value>,
    pending: String,
    count: usize,
}

impl Notebook {
    fn markdown(&mut self, text: &str) {
        // Each section is a cell of its own.
        for line in text.split_inclusive('\n') {
            if line.starts_with('#') && !self.pending.trim().is_empty() && !in_fence(&self.pending) {
                self.flush();
            }
            self.pending += line;
        }
    }

    fn flush(&mut self) {
        let text = std::mem::take(&mut self.pending);
        let text = text.trim();
        if !text.is_empty() {
            let id = format!("text-{}", self.cells.len());
            self.cells.push(json!({"cell_type": "markdown", "id": id, "metadata": {}, "source": lines(text)}));
        }
    }

    fn setup(&mut self, language: Language) {
        self.flush();
        let tags: [&str; 0] = [];
        self.code("setup", SETUP, &tags, json!([]));
        // Where the page's own cells begin is the reader's first look at the kernel.
        let note = match language {
            Language::English => {
                "The cell above loads the trainer. In the kernel *Rust (Ferrotune)* it is loaded already; evcxr's own kernel compiles it first, which takes minutes.\n"
            }
            Language::Vietnamese => {
                "Ô mã trên nạp trình huấn luyện. Trong kernel *Rust (Ferrotune)* mọi thứ đã được nạp sẵn; kernel của evcxr phải biên dịch trước, mất vài phút.\n"
            }
        };
        self.pending += note;
    }

    fn code(&mut self, id: &str, code: &str, tags: &[&str], outputs: Value) {
        self.flush();
        self.count += 1;
        let metadata = if tags.is_empty() { json!({}) } else { json!({"tags": tags}) };
        let count =
            if outputs.as_array().is_some_and(|outputs| outputs.is_empty()) { Value::Null } else { self.count.into() };
        self.cells.push(json!({
            "cell_type": "code", "id": id, "metadata": metadata, "execution_count": count,
            "source": lines(code), "outputs": outputs,
        }));
    }

    fn text(mut self, language: Language) -> Result<String, String> {
        self.flush();
        let notebook = json!({
            "cells": self.cells,
            "metadata": {
                "kernelspec": {"display_name": "Rust (Ferrotune)", "language": "rust", "name": "ferrotune"},
                "language_info": {"file_extension": ".rs", "mimetype": "text/rust", "name": "rust"},
                "title": Words::of(language).title,
            },
            "nbformat": 4,
            "nbformat_minor": 5,
        });
        let notebook = nbformat::parse_notebook(&notebook.to_string()).map_err(|e| e.to_string())?;
        nbformat::serialize_notebook(&notebook).map_err(|e| e.to_string())
    }
}

fn in_fence(text: &str) -> bool {
    text.lines().filter(|line| line.starts_with("```")).count() % 2 == 1
}

fn lines(text: &str) -> Vec<&str> {
    text.split_inclusive('\n').collect()
}

/// Markdown as Jupyter knows it.
fn replaced(course: &Course, markdown: &str, record: &Record) -> Result<String, String> {
    let mut text = String::with_capacity(markdown.len());
    for piece in inline(markdown) {
        match piece {
            Inline::Text(plain) => text += &for_jupyter(plain),
            Inline::Code(code) => text += code,
            Inline::Math(latex) => text += &format!("${latex}$"),
            Inline::Value(words) => text += &values::look_up(course, record, words)?,
        }
    }
    Ok(text)
}

/// Without the ids of headings and the marks of admonitions; other lessons are notebooks, too.
fn for_jupyter(text: &str) -> String {
    let mut out = String::new();
    for line in text.split_inclusive('\n') {
        let head = line.starts_with('#').then(|| line.rsplit_once(" {#")).flatten();
        match (head, line.trim().strip_prefix("> [!").and_then(|rest| rest.strip_suffix(']'))) {
            (Some((title, _)), _) => out += &format!("{title}\n"),
            (_, Some(kind)) => out += &format!("> **{}{}**\n>\n", &kind[..1], kind[1..].to_lowercase()),
            _ => out += line,
        }
    }
    out.replace(".md)", ".ipynb)").replace(".md#", ".ipynb#")
}

/// An SVG as a data address has it.
fn percent(svg: &str) -> String {
    svg.replace('%', "%25")
        .replace('#', "%23")
        .replace('"', "'")
        .replace('<', "%3C")
        .replace('>', "%3E")
        .replace('\n', " ")
}
