//! What was run before, in this session and earlier ones: a line of JSON for each cell.

use std::io::Write;
use std::path::PathBuf;

use jupyter_protocol::{HistoryEntry, HistoryReply, HistoryRequest, ReplyStatus};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    session: usize,
    line: usize,
    input: String,
    #[serde(default)]
    output: String,
}

/// All that is kept.
#[derive(Debug, Default)]
pub(super) struct History {
    entries: Vec<Entry>,
    /// This session's number, from 1.
    session: usize,
    /// `None`: nothing is kept beyond this session.
    file: Option<PathBuf>,
}

/// How many cells of earlier sessions are read.
const KEPT: usize = 10_000;

impl History {
    /// Reads the user's history; begins a session.
    pub(super) fn of_this_user() -> Self {
        let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let data = absolute("XDG_DATA_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/share")));
        Self::open(data.map(|data| data.join("ferrotune-kernel/history.jsonl")))
    }

    fn open(file: Option<PathBuf>) -> Self {
        let text = file.as_ref().and_then(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
        // A line that was cut short by a full disk is left out.
        let mut entries: Vec<Entry> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        entries.drain(..entries.len().saturating_sub(KEPT));
        let session = entries.iter().map(|entry| entry.session).max().unwrap_or(0) + 1;
        Self { entries, session, file }
    }

    /// Keeps a cell and its value as text. A history that cannot be written is no reason for a cell to fail.
    pub(super) fn push(&mut self, line: usize, input: &str, output: &str) {
        let entry = Entry { session: self.session, line, input: input.into(), output: output.into() };
        if let (Some(file), Ok(mut json)) = (&self.file, serde_json::to_string(&entry)) {
            json.push('\n');
            let _ = file.parent().map(std::fs::create_dir_all);
            let opened = std::fs::OpenOptions::new().create(true).append(true).open(file);
            let _ = opened.and_then(|mut file| file.write_all(json.as_bytes()));
        }
        self.entries.push(entry);
    }

    pub(super) fn answer(&self, request: &HistoryRequest) -> HistoryReply {
        let (found, output) = match request {
            HistoryRequest::Tail { n, output, .. } => (self.last(&|_| true, *n, false), *output),
            HistoryRequest::Range { session, start, stop, output, .. } => {
                let session = match session.unwrap_or(0) {
                    back @ ..=0 => self.session.saturating_sub(back.unsigned_abs() as usize),
                    number => number as usize,
                };
                let lines = (*start).max(0) as usize..(*stop).max(0) as usize;
                let within = |e: &&Entry| e.session == session && lines.contains(&e.line);
                (self.entries.iter().filter(within).collect(), *output)
            }
            HistoryRequest::Search { pattern, unique, output, n, .. } => {
                (self.last(&|entry| glob(pattern, &entry.input), *n, *unique), *output)
            }
        };
        let entry = |e: &Entry| match output {
            true => HistoryEntry::InputOutput(e.session, e.line, (e.input.clone(), e.output.clone())),
            false => HistoryEntry::Input(e.session, e.line, e.input.clone()),
        };
        HistoryReply { history: found.into_iter().map(entry).collect(), status: ReplyStatus::Ok, error: None }
    }

    /// The last `n` that are wanted, the latest of each input if `unique`, in their order.
    fn last(&self, wanted: &dyn Fn(&Entry) -> bool, n: i32, unique: bool) -> Vec<&Entry> {
        let mut seen = std::collections::HashSet::new();
        let latest = self.entries.iter().rev().filter(|entry| wanted(entry));
        let latest = latest.filter(|entry| !unique || seen.insert(&entry.input));
        let mut found: Vec<_> = latest.take(n.max(0) as usize).collect();
        found.reverse();
        found
    }
}

/// Whether `text` is of the form of `pattern`, in which `*` stands for anything and `?` for one character.
fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    // reached[j]: the pattern so far can take the first j characters.
    let mut reached: Vec<bool> = (0..=text.len()).map(|j| j == 0).collect();
    for p in pattern {
        reached = match p {
            '*' => {
                let first = reached.iter().position(|r| *r).unwrap_or(usize::MAX);
                (0..=text.len()).map(|j| j >= first).collect()
            }
            p => (0..=text.len()).map(|j| j > 0 && reached[j - 1] && (p == '?' || p == text[j - 1])).collect(),
        };
    }
    reached[text.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(history: &History, request: &HistoryRequest) -> Vec<String> {
        let entries = history.answer(request).history.into_iter();
        entries
            .map(|entry| match entry {
                HistoryEntry::Input(session, line, input) => format!("{session}.{line} {input}"),
                HistoryEntry::InputOutput(session, line, (input, output)) => {
                    format!("{session}.{line} {input} = {output}")
                }
            })
            .collect()
    }

    #[test]
    fn a_history_outlives_its_session() {
        let folder = tempfile::tempdir().unwrap();
        let file = Some(folder.path().join("new/history.jsonl"));
        let mut first = History::open(file.clone());
        first.push(1, "1 + 1", "2");
        first.push(2, "let a = 3;", "");
        let mut history = History::open(file);
        history.push(1, "a", "3");
        history.push(2, "1 + 1", "2");

        let tail = |n, output| HistoryRequest::Tail { n, output, raw: true };
        assert_eq!(inputs(&history, &tail(2, true)), ["2.1 a = 3", "2.2 1 + 1 = 2"]);
        assert_eq!(inputs(&history, &tail(9, false)).len(), 4);
        let range =
            |session| HistoryRequest::Range { session: Some(session), start: 1, stop: 2, output: false, raw: true };
        assert_eq!(inputs(&history, &range(0)), ["2.1 a"]);
        assert_eq!(inputs(&history, &range(-1)), ["1.1 1 + 1"]);
        assert_eq!(inputs(&history, &range(1)), ["1.1 1 + 1"]);
        let search = |unique| HistoryRequest::Search { pattern: "1 *".into(), unique, output: false, raw: true, n: 5 };
        assert_eq!(inputs(&history, &search(false)), ["1.1 1 + 1", "2.2 1 + 1"]);
        assert_eq!(inputs(&history, &search(true)), ["2.2 1 + 1"]);
    }

    #[test]
    fn a_pattern_takes_the_whole_text() {
        for (pattern, text, fits) in
            [("*", "", true), ("a*c", "abbc", true), ("a*c", "abcd", false), ("?á", "bá", true), ("", "a", false)]
        {
            assert_eq!(glob(pattern, text), fits, "{pattern} {text}");
        }
    }
}
