//! A model's own chat template: Jinja as transformers runs it (`apply_chat_template`).
//!
//! That dialect is `trim_blocks` and `lstrip_blocks`, the functions `raise_exception` and `strftime_now`, a `tojson` that
//! writes as Python's `json.dumps` does, `{% generation %}` marks (which print nothing), and Python's string methods.
//! `strftime_now` tells one fixed date, so that the same data gives the same tokens on every day.

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{AutoEscape, Environment, ErrorKind, State, context};
use serde::Serialize;

use crate::error::{Error, Result};

/// What `strftime_now` tells: Friday, 26 July 2024, midnight; the day that Llama 3's templates fall back to.
const NOW: [(char, &str); 13] = [
    ('d', "26"),
    ('m', "07"),
    ('b', "Jul"),
    ('B', "July"),
    ('Y', "2024"),
    ('y', "24"),
    ('a', "Fri"),
    ('A', "Friday"),
    ('H', "00"),
    ('I', "12"),
    ('M', "00"),
    ('S', "00"),
    ('j', "208"),
];

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    pub content: String,
}

/// A compiled chat template with the tokens that it writes.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos_token: String,
    eos_token: String,
}

impl ChatTemplate {
    /// Compiles `source`; the tokens are the texts of the tokenizer's special tokens, empty where it has none.
    ///
    /// # Errors
    /// [`Error::Config`] where `source` is not a template, with its line.
    pub fn new(source: &str, bos_token: Option<&str>, eos_token: Option<&str>) -> Result<Self> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_unknown_method_callback(python_method);
        environment.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", |format: String| strftime(&format));
        environment.add_filter("tojson", to_json);
        environment.add_template_owned("chat", without_generation_marks(source)).map_err(|e| {
            let place = e.line().map(|line| format!("line {line} of the template")).unwrap_or_default();
            let what = format!("the model's chat template cannot be read: {}", told(&e));
            Error::config(place, what, "Use another template, such as `alpaca`.")
        })?;
        let text = |token: Option<&str>| token.unwrap_or_default().to_owned();
        Ok(Self { environment, bos_token: text(bos_token), eos_token: text(eos_token) })
    }

    /// The text of `messages`; `add_generation_prompt` ends it where the assistant's answer starts.
    ///
    /// # Errors
    /// [`Error::Data`] with the template's own words where it refuses the messages, such as a role that it does not know.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let (bos_token, eos_token) = (&self.bos_token, &self.eos_token);
        let context = context! { messages, add_generation_prompt, bos_token, eos_token };
        self.environment.get_template("chat").and_then(|t| t.render(context)).map_err(|e| {
            let what = format!("the model's chat template refuses this conversation: {}", told(&e));
            Error::data("", what, "Change the data, or use another template, such as `alpaca`.")
        })
    }
}

fn told(error: &minijinja::Error) -> String {
    error.detail().map_or_else(|| error.kind().to_string(), str::to_owned)
}

/// Turns `{% generation %}` into a block that Jinja knows. Source: transformers' `AssistantTracker` extension.
fn without_generation_marks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let end = rest[start..].find("%}").map_or(rest.len(), |at| start + at + 2);
        let tag = &rest[start..end];
        out += &rest[..start];
        out += &match tag.trim_start_matches("{%").trim_end_matches("%}").trim_matches(['-', '+']).trim() {
            "generation" => tag.replace("generation", "if true"),
            "endgeneration" => tag.replace("endgeneration", "endif"),
            _ => tag.to_owned(),
        };
        rest = &rest[end..];
    }
    out + rest
}

fn strftime(format: &str) -> String {
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        match (c, if c == '%' { chars.next() } else { None }) {
            (_, Some(code)) => match NOW.iter().find(|(known, _)| *known == code) {
                Some((_, text)) => out.push_str(text),
                None => out.push(code),
            },
            (c, None) => out.push(c),
        }
    }
    out
}

/// `json.dumps(value, ensure_ascii=False, indent=indent)`.
fn to_json(value: Value, options: Kwargs) -> Result<String, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    let broken = |e: serde_json::Error| minijinja::Error::new(ErrorKind::BadSerialization, e.to_string());
    let value = serde_json::to_value(&value).map_err(broken)?;
    let mut out = String::new();
    dump(&value, indent, 0, &mut out);
    Ok(out)
}

fn dump(value: &serde_json::Value, indent: Option<usize>, depth: usize, out: &mut String) {
    let newline = |out: &mut String, depth: usize| {
        if let Some(width) = indent {
            out.push('\n');
            out.push_str(&" ".repeat(width * depth));
        }
    };
    let comma = if indent.is_some() { "," } else { ", " };
    let entries: Vec<(Option<&String>, &serde_json::Value)> = match value {
        serde_json::Value::Array(items) if !items.is_empty() => items.iter().map(|v| (None, v)).collect(),
        serde_json::Value::Object(map) if !map.is_empty() => map.iter().map(|(k, v)| (Some(k), v)).collect(),
        plain => return out.push_str(&plain.to_string()),
    };
    let (open, close) = if value.is_array() { ('[', ']') } else { ('{', '}') };
    out.push(open);
    for (i, (key, value)) in entries.into_iter().enumerate() {
        if i > 0 {
            out.push_str(comma);
        }
        newline(out, depth + 1);
        if let Some(key) = key {
            out.push_str(&serde_json::Value::from(key.as_str()).to_string());
            out.push_str(": ");
        }
        dump(value, indent, depth + 1, out);
    }
    newline(out, depth);
    out.push(close);
}

/// The methods of Python's strings and dictionaries that published chat templates call.
fn python_method(_: &State, of: &Value, method: &str, args: &[Value]) -> Result<Value, minijinja::Error> {
    let unknown = || minijinja::Error::from(ErrorKind::UnknownMethod);
    let argument = |i: usize| args.get(i).and_then(Value::as_str);
    if let Some(text) = of.as_str() {
        let set: Option<Vec<char>> = argument(0).map(|chars| chars.chars().collect());
        let strips = |c: char| set.as_ref().map_or(c.is_whitespace(), |set| set.contains(&c));
        return Ok(match (method, argument(0), argument(1)) {
            ("strip", ..) => text.trim_matches(strips).into(),
            ("lstrip", ..) => text.trim_start_matches(strips).into(),
            ("rstrip", ..) => text.trim_end_matches(strips).into(),
            ("upper", ..) => text.to_uppercase().into(),
            ("lower", ..) => text.to_lowercase().into(),
            ("startswith", Some(start), _) => text.starts_with(start).into(),
            ("endswith", Some(end), _) => text.ends_with(end).into(),
            ("replace", Some(from), Some(to)) => text.replace(from, to).into(),
            ("split", Some(by), _) if !by.is_empty() => text.split(by).map(Value::from).collect(),
            ("split", None, _) => text.split_whitespace().map(Value::from).collect(),
            _ => return Err(unknown()),
        });
    }
    if of.kind() != ValueKind::Map {
        return Err(unknown());
    }
    let pair = |key: Value| Ok::<_, minijinja::Error>(Value::from(vec![key.clone(), of.get_item(&key)?]));
    match method {
        "keys" => Ok(of.try_iter()?.collect()),
        "values" => Ok(Value::from(of.try_iter()?.map(|key| of.get_item(&key)).collect::<Result<Vec<_>, _>>()?)),
        "items" => Ok(Value::from(of.try_iter()?.map(pair).collect::<Result<Vec<_>, _>>()?)),
        "get" => {
            let found = args.first().map(|key| of.get_item(key)).transpose()?;
            let missing = args.get(1).cloned().unwrap_or(Value::from(()));
            Ok(found.filter(|value| !value.is_undefined()).unwrap_or(missing))
        }
        _ => Err(unknown()),
    }
}
