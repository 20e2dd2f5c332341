//! Displays: pictures, tables and text that a notebook shows while a cell runs.
//!
//! Each function shows something at once and returns a [`Display`], which can put something else in its place. In a
//! terminal, and where a notebook's kernel shows pictures only when a cell ends, text stands for what moves.

mod ask;
pub(super) mod backend;
mod content;
mod progress;
pub(super) mod throttle;

use serde_json::json;

use self::backend::{Backend, Place};
use super::Table;

pub use ask::{input, password};
pub(super) use content::escape;
pub use content::{Bundle, Content, Html, Markdown, Png, Svg};
pub use progress::{Progress, progress};

/// Something that is shown, and can be changed where it stands.
#[derive(Debug)]
pub struct Display<C> {
    id: String,
    content: std::marker::PhantomData<fn() -> C>,
}

impl<C: Content> Display<C> {
    /// Shows `content` in a place of its own.
    pub fn new(content: impl Into<C>) -> Self {
        let display = Self { id: backend::new_id(), content: std::marker::PhantomData };
        display.put(&content.into(), Place::New);
        display
    }

    /// Shows `content` in the place of what was shown before.
    pub fn update(&self, content: impl Into<C>) {
        self.put(&content.into(), Place::Update);
    }

    fn put(&self, content: &C, place: Place) {
        backend::write(&Backend::current().display(&content.bundle(), &self.id, place));
    }
}

impl<C> Display<C> {
    /// What evcxr does with a display at the end of a cell: nothing, for it is shown already.
    pub fn evcxr_display(&self) {}
}

/// Shows a piece of HTML.
pub fn html(html: impl Into<Html>) -> Display<Html> {
    Display::new(html)
}

/// Shows a picture that is written in SVG.
pub fn svg(svg: impl Into<Svg>) -> Display<Svg> {
    Display::new(svg)
}

/// Shows the picture of a PNG file's bytes.
pub fn png(bytes: impl Into<Png>) -> Display<Png> {
    Display::new(bytes)
}

/// Shows text in Markdown.
pub fn markdown(text: impl Into<Markdown>) -> Display<Markdown> {
    Display::new(text)
}

/// Shows a table.
pub fn table(table: impl Into<Table>) -> Display<Table> {
    Display::new(table)
}

/// Shows text in the notebook's pager; elsewhere, as text.
pub fn page(text: impl Into<String>) {
    let text = text.into();
    backend::write(&match Backend::current() {
        Backend::Frames => {
            backend::frame("payload", json!({"source": "page", "start": 0, "data": {"text/plain": text}}))
        }
        Backend::Evcxr | Backend::Text => backend::line(&text),
    });
}

/// Empties the output of the cell, at once or (`wait`) when the next output comes. Only a notebook can.
pub fn clear_output(wait: bool) {
    if Backend::current() == Backend::Frames {
        backend::write(&backend::frame("clear_output", json!({"wait": wait})));
    }
}

/// Tells the kernel something that it does not show.
pub(super) fn status(content: serde_json::Value) {
    if Backend::current() == Backend::Frames {
        backend::write(&backend::frame("status", content));
    }
}

impl Table {
    /// Shows the table at the end of a cell.
    pub fn evcxr_display(&self) {
        table(self);
    }
}
