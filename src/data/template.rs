//! The text of an example: what stands before the output, and the output.

use std::ops::Range;

use super::Record;
use super::chat::{ChatTemplate, Message};
use crate::error::{Error, Result};
use crate::model::Pretrained;

/// A template that is plain text with placeholders. Adding one is adding a row to [`PLAIN`].
#[derive(Debug)]
pub struct Plain {
    pub name: &'static str,
    /// Before the output, with `{instruction}` and `{input}`.
    pub with_input: &'static str,
    /// Before the output of a record whose input is empty, with `{instruction}`.
    pub without_input: &'static str,
}

/// The plain templates by name. Source of `alpaca`: Stanford Alpaca's headings, without its preamble.
pub const PLAIN: &[Plain] = &[Plain {
    name: "alpaca",
    with_input: "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n",
    without_input: "### Instruction:\n{instruction}\n\n### Response:\n",
}];

/// The name under which a config asks for the model's own chat template.
pub const CHAT: &str = "chat";

/// How a record becomes text.
#[derive(Debug)]
pub enum Template {
    /// The output follows the prompt as it is; the tokenizer adds the special tokens that it adds to any text.
    Plain(&'static Plain),
    /// Instruction and input are the user's message, the output is the assistant's. The template writes all special tokens.
    Chat(Box<ChatTemplate>),
}

/// An example's text in two parts; the text is both, one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// What the model is given.
    pub prompt: String,
    /// What it is to write: the output, and what the template puts after it.
    pub completion: String,
    /// Where earlier answers stand in `prompt`, in bytes; they are written by the model, too.
    pub answers: Vec<Range<usize>>,
}

impl Template {
    /// The template called `name`; `chat` is the model's chat template, which only `"chat"` needs.
    ///
    /// # Errors
    /// [`Error::Config`] for an unknown name, or `"chat"` where the model has no chat template.
    pub fn named(name: &str, chat: Option<ChatTemplate>) -> Result<Self> {
        if name == CHAT {
            let hint = "Use another template, such as `alpaca`, or a model that was tuned for chat.";
            let missing = || Error::config("", "the model has no chat template, which the template `chat` needs", hint);
            return Ok(Self::Chat(Box::new(chat.ok_or_else(missing)?)));
        }
        if let Some(plain) = PLAIN.iter().find(|t| t.name == name) {
            return Ok(Self::Plain(plain));
        }
        let known: Vec<String> = PLAIN.iter().map(|t| t.name).chain([CHAT]).map(|n| format!("`{n}`")).collect();
        let hint = format!("The templates are {}.", known.join(" and "));
        Err(Error::config("", format!("unknown template `{name}`"), hint))
    }

    /// The template called `name`, with `pretrained`'s own chat template and special tokens where it asks for them.
    ///
    /// # Errors
    /// As [`Self::named`]; [`Error::Config`] where the model's chat template is broken.
    pub fn for_model(name: &str, pretrained: &Pretrained) -> Result<Self> {
        if name != CHAT {
            return Self::named(name, None);
        }
        let token = |id: Option<u32>| pretrained.tokenizer().ok().and_then(|t| t.id_to_token(id?));
        let (bos, eos) = (token(pretrained.bos_token_id), token(pretrained.eos_token_ids.first().copied()));
        let chat = pretrained.chat_template.as_deref();
        let chat = chat.map(|source| ChatTemplate::new(source, bos.as_deref(), eos.as_deref())).transpose();
        chat.and_then(|chat| Self::named(name, chat)).map_err(|e| match e {
            Error::Config { place, what, hint } => {
                let model = format!("`{}`", pretrained.path.display());
                Error::config(if place.is_empty() { model } else { format!("{model}, {place}") }, what, hint)
            }
            other => other,
        })
    }

    /// The text before the output, which generation starts from.
    ///
    /// # Errors
    /// [`Error::Data`] where a chat template refuses the record, or a plain one meets a conversation.
    pub fn prompt(&self, record: &Record) -> Result<String> {
        match self {
            Self::Plain(_) if !record.turns.is_empty() => {
                let what = "the example is a conversation, for which this template has no place";
                Err(Error::data("", what, "Use the template `chat`, the model's own."))
            }
            Self::Plain(plain) => Ok(plain.prompt(record)),
            Self::Chat(chat) => chat.render(&messages(record), true),
        }
    }

    /// The whole text, parted where the output begins.
    ///
    /// # Errors
    /// [`Error::Data`] where a chat template refuses the record, or writes another prompt before an answer than it does
    /// when it asks for one, so that nothing tells where the output begins.
    pub fn text(&self, record: &Record) -> Result<Text> {
        let prompt = self.prompt(record)?;
        match self {
            Self::Plain(_) => Ok(Text { prompt, completion: record.output.clone(), answers: Vec::new() }),
            Self::Chat(chat) => {
                let mut messages = messages(record);
                messages.push(Message { role: ASSISTANT.into(), content: record.output.clone() });
                let whole = chat.render(&messages, false)?;
                // `{% generation %}` would mark the answers, and few templates have it; where an answer begins and ends
                // shows in what the template writes of the conversation up to there.
                let upto = |count: usize, prompt: bool| {
                    let text = chat.render(&messages[..count], prompt)?;
                    if whole.starts_with(&text) { Ok(text.len()) } else { Err(unstable()) }
                };
                let mut answers = Vec::new();
                for (i, _) in messages.iter().enumerate().rev().skip(1).filter(|(_, m)| m.role == ASSISTANT) {
                    answers.push(upto(i, true)?..upto(i + 1, false)?);
                }
                answers.reverse();
                let completion = whole.strip_prefix(&prompt).map(str::to_owned).ok_or_else(unstable)?;
                Ok(Text { prompt, completion, answers })
            }
        }
    }

    /// Whether the tokenizer adds its special tokens (such as a beginning-of-sequence token) to this template's text.
    pub fn wants_special_tokens(&self) -> bool {
        matches!(self, Self::Plain(_))
    }
}

impl Plain {
    fn prompt(&self, record: &Record) -> String {
        let mut rest = if record.input.is_empty() { self.without_input } else { self.with_input };
        let values = [("{instruction}", &record.instruction), ("{input}", &record.input)];
        // One pass over the template's text: a record may hold `{input}` itself.
        let mut out = String::new();
        let next = |rest: &str| values.iter().filter_map(|(key, v)| Some((rest.find(key)?, *key, *v))).min();
        while let Some((at, key, value)) = next(rest) {
            out += &rest[..at];
            out += value;
            rest = &rest[at + key.len()..];
        }
        out + rest
    }
}

const ASSISTANT: &str = "assistant";

fn unstable() -> Error {
    let what = "the chat template does not write the prompt of a question before its answer unchanged";
    Error::data("", what, "Use another template, such as `alpaca`.")
}

/// The conversation up to the question.
fn messages(record: &Record) -> Vec<Message> {
    record.turns.iter().cloned().chain([user(record)]).collect()
}

/// The user's message: the instruction, then a blank line and the input where there is one.
fn user(record: &Record) -> Message {
    let content = match record.input.as_str() {
        "" => record.instruction.clone(),
        input => format!("{}\n\n{input}", record.instruction),
    };
    Message { role: "user".into(), content }
}
