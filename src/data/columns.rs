//! From a row, whatever its columns are called, to a record.
//!
//! | shape | columns |
//! |---|---|
//! | Alpaca | `instruction`, `output`, and `input` where there is one |
//! | pair | `prompt` and `completion`; `question` and `answer`; see [`PAIRS`] |
//! | conversation | `messages` (or `conversations`) of `role` and `content` (or `from` and `value`) |
//! | Alpaca in several languages | `instruction_xx`, `output_xx`, `input_xx`: Vietnamese if it is there, else the first |

use std::path::Path;

use serde_json::{Map, Value};

use super::Record;
use super::chat::Message;
use crate::error::{Error, Result};

pub(super) type Row = Map<String, Value>;

/// What a person can do about a row that is no example.
pub(super) const HINT: &str = "Each example is an object with the strings `instruction` and `output`, and `input` where there \
                               is one; with `prompt` and `completion`; or with `messages`.";

/// Question and answer under other names, by data sets that many use.
const PAIRS: [(&str, &str); 6] = [
    ("prompt", "completion"),
    ("prompt", "response"),
    ("instruction", "response"),
    ("question", "answer"),
    ("query", "response"),
    ("query", "answer"),
];
const CONVERSATIONS: [&str; 2] = ["messages", "conversations"];

/// The record of a row at `place` of the file `path`.
///
/// Errors: [`Error::Format`] naming file, place and column for a row that has none of the shapes, or values of other types.
pub(super) fn record(path: &Path, place: &str, row: Row) -> Result<Record> {
    let columns = Columns { path, place, row };
    let has = |name: &str| columns.row.contains_key(name);
    if has("instruction") && has("output") {
        return columns.alpaca("");
    }
    if let Some((question, answer)) = PAIRS.iter().find(|(question, answer)| has(question) && has(answer)) {
        return columns.pair(question, answer);
    }
    if let Some(name) = CONVERSATIONS.iter().find(|name| has(name)) {
        return columns.conversation(name);
    }
    match columns.language() {
        Some(suffix) => columns.alpaca(&suffix),
        // Says which of Alpaca's columns is missing.
        None => columns.alpaca(""),
    }
}

struct Columns<'a> {
    path: &'a Path,
    place: &'a str,
    row: Row,
}

impl Columns<'_> {
    fn alpaca(&self, suffix: &str) -> Result<Record> {
        Ok(Record {
            instruction: self.text(&format!("instruction{suffix}"), false)?,
            input: self.text(&format!("input{suffix}"), true)?,
            output: self.text(&format!("output{suffix}"), false)?,
            turns: Vec::new(),
        })
    }

    /// A prompt and a completion are texts, or messages, as TRL has them.
    fn pair(&self, question: &str, answer: &str) -> Result<Record> {
        if self.row[question].is_array() {
            let mut turns = self.messages(question, &self.row[question])?;
            turns.extend(self.messages(answer, &self.row[answer])?);
            return self.of_turns(question, turns);
        }
        let (instruction, output) = (self.text(question, false)?, self.text(answer, false)?);
        Ok(Record { instruction, output, ..Record::default() })
    }

    fn conversation(&self, name: &str) -> Result<Record> {
        let turns = self.messages(name, &self.row[name])?;
        self.of_turns(name, turns)
    }

    /// The last two messages are the question and the answer that is to be learnt.
    fn of_turns(&self, name: &str, mut turns: Vec<Message>) -> Result<Record> {
        let answer = turns.pop().filter(|turn| turn.role == "assistant");
        let question = turns.pop().filter(|turn| turn.role == "user");
        match (question, answer) {
            (Some(question), Some(answer)) => {
                Ok(Record { instruction: question.content, output: answer.content, turns, ..Record::default() })
            }
            _ => Err(self.wrong(format!("the last two messages of `{name}` are not a user's and the assistant's"))),
        }
    }

    fn messages(&self, name: &str, value: &Value) -> Result<Vec<Message>> {
        let Value::Array(messages) = value else {
            return Err(self.wrong(format!("`{name}` is {}, but must be an array of messages", kind(value))));
        };
        let message = |message: &Value| {
            let text = |names: [&str; 2]| names.iter().find_map(|name| message.get(*name)).and_then(Value::as_str);
            let (Some(role), Some(content)) = (text(["role", "from"]), text(["content", "value"])) else {
                let what = format!("a message of `{name}` has not the strings `role` and `content`");
                return Err(self.wrong(what));
            };
            let role = match role {
                "human" => "user",
                "gpt" | "model" => "assistant",
                other => other,
            };
            Ok(Message { role: role.into(), content: content.into() })
        };
        messages.iter().map(message).collect()
    }

    /// What follows `instruction` and `output` in the names of a data set that has them in several languages.
    fn language(&self) -> Option<String> {
        let suffixes = self.row.keys().filter_map(|name| name.strip_prefix("instruction"));
        let whole = suffixes.filter(|suffix| self.row.contains_key(&format!("output{suffix}")));
        // This project's course is Vietnamese and English; a name that says so is likelier meant than the order of columns.
        whole.min_by_key(|suffix| *suffix != "_vi").map(str::to_owned)
    }

    fn text(&self, name: &str, optional: bool) -> Result<String> {
        match self.row.get(name) {
            Some(Value::String(text)) => Ok(text.clone()),
            None | Some(Value::Null) if optional => Ok(String::new()),
            Some(other) => Err(self.wrong(format!("`{name}` is {}, but must be a string", kind(other)))),
            None => {
                let there: Vec<_> = self.row.keys().map(|k| format!("`{k}`")).collect();
                let there = if there.is_empty() { "none".into() } else { there.join(", ") };
                let hint = format!("The keys here: {there}. {HINT}");
                Err(Error::format(self.path, self.place, format!("the key `{name}` is missing"), hint))
            }
        }
    }

    fn wrong(&self, what: String) -> Error {
        Error::format(self.path, self.place, what, HINT)
    }
}

pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
