//! A bar that fills up.

use std::time::{Duration, Instant};

use super::Display;
use super::backend::{Backend, write};
use super::content::{Html, escape};
use super::throttle::Throttle;

/// How often a bar moves in a notebook.
const EVERY: Duration = Duration::from_millis(100);
/// How often a line says so elsewhere.
const LINE_EVERY: Duration = Duration::from_secs(2);

/// Work that is counted, shown as a bar; elsewhere as a line from time to time.
#[derive(Debug)]
pub struct Progress {
    label: String,
    done: u64,
    total: u64,
    message: String,
    throttle: Throttle,
    display: Option<Display<Html>>,
    /// What is shown already.
    shown: Option<(u64, String)>,
}

/// Shows a bar for `total` pieces of work; `label` says what they are.
pub fn progress(total: u64, label: impl Into<String>) -> Progress {
    Progress::new(total, label)
}

impl Progress {
    /// A bar at nothing; with a `total` of 0 it appears at its first move.
    pub fn new(total: u64, label: impl Into<String>) -> Self {
        let every = if Backend::current() == Backend::Frames { EVERY } else { LINE_EVERY };
        let mut bar = Self {
            label: label.into(),
            done: 0,
            total,
            message: String::new(),
            throttle: Throttle::new(every),
            display: None,
            shown: None,
        };
        if total > 0 {
            bar.refresh(Instant::now());
        }
        bar
    }

    /// Moves the bar to `done`.
    pub fn set(&mut self, done: u64) {
        self.done = done;
        self.refresh(Instant::now());
    }

    /// Moves the bar on by `more`.
    pub fn add(&mut self, more: u64) {
        self.set(self.done + more);
    }

    /// Says how much work there is in all, where that is known late.
    pub fn total(&mut self, total: u64) {
        self.total = total;
    }

    /// Says something beside the bar, from its next move on.
    pub fn message(&mut self, message: impl Into<String>) {
        self.message = message.into();
    }

    /// Leaves the bar as it now is.
    pub fn finish(mut self) {
        self.show();
    }

    /// What evcxr does with a bar at the end of a cell: nothing, for it is shown already.
    pub fn evcxr_display(&self) {}

    fn refresh(&mut self, now: Instant) {
        if self.throttle.due(now) {
            self.show();
        }
    }

    fn show(&mut self) {
        let state = (self.done, self.message.clone());
        if self.shown.as_ref() == Some(&state) {
            return;
        }
        self.shown = Some(state);
        if Backend::current() != Backend::Frames {
            return write(&format!("{}\n", self.text()));
        }
        let html = self.html();
        match &self.display {
            Some(display) => display.update(html),
            None => self.display = Some(Display::new(html)),
        }
    }

    fn text(&self) -> String {
        let text = format!("{} {}/{}  {}", self.label, self.done, self.total, self.message);
        text.trim_end().into()
    }

    fn html(&self) -> String {
        format!(
            "<div>{} <progress value=\"{}\" max=\"{}\"></progress> {}/{} &nbsp; {}</div>",
            escape(&self.label),
            self.done,
            self.total.max(1),
            self.done,
            self.total,
            escape(&self.message)
        )
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.show();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_reads_as_a_line_and_as_html() {
        let mut bar = Progress::new(4, "a<b");
        bar.message("1 & 2");
        bar.set(3);
        assert_eq!(bar.text(), "a<b 3/4  1 & 2");
        assert!(bar.html().contains("a&lt;b <progress value=\"3\" max=\"4\">"), "{}", bar.html());
        assert!(bar.html().contains("1 &amp; 2"), "{}", bar.html());
    }

    #[test]
    fn moves_in_between_are_not_shown_but_the_last_one_is() {
        let mut bar = Progress::new(1000, "steps");
        let start = Instant::now();
        bar.throttle = Throttle::new(EVERY);
        let mut shown = Vec::new();
        for step in 0..=1000u64 {
            bar.done = step;
            bar.refresh(start + Duration::from_millis(step));
            if shown.last() != Some(&bar.shown) {
                shown.push(bar.shown.clone());
            }
        }
        // One each 100 ms of the second.
        assert_eq!(shown.len(), 11);
        bar.done = 1001;
        bar.show();
        assert_eq!(bar.shown, Some((1001, String::new())));
    }
}
