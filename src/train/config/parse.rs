//! A run's settings from a file and from flags, each mistake with its place.

use std::collections::BTreeMap;
use std::path::Path;

use toml::Value;
use toml::de::{DeTable, DeValue};

use super::keys::{KEYS, Key, Table};
use super::nearest::nearest;
use super::{Method, RunConfig};
use crate::error::{Error, Result};
use crate::prompt_tuning::PromptInit;

/// Where a value was given.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Place {
    File {
        path: String,
        line: usize,
    },
    Flag,
    /// In a program, or by default.
    Code,
}

impl Place {
    /// What follows the value in a message: the file, if any.
    pub(super) fn file(&self) -> String {
        if let Self::File { path, .. } = self { format!(" in `{path}`") } else { String::new() }
    }

    /// The place after the file.
    pub(super) fn detail(&self, key: &Key) -> String {
        match self {
            Self::File { line, .. } => line_and_table(*line, key.table),
            Self::Flag => format!("flag `{}`", key.flag()),
            Self::Code => String::new(),
        }
    }
}

fn line_and_table(line: usize, table: Table) -> String {
    match table.name() {
        Some(name) => format!("line {line}, table `[{name}]`"),
        None => format!("line {line}"),
    }
}

type Places = BTreeMap<&'static str, Place>;

impl RunConfig {
    /// Reads a config file's text; `path` is for messages.
    ///
    /// Errors: [`Error::Format`] where it is no TOML, [`Error::Config`] for an unknown key, a value that does not fit, or
    /// values that contradict each other.
    pub fn from_toml(text: &str, path: &Path) -> Result<Self> {
        let (config, places) = from_text(text, path)?;
        check_together(&config, |key| place_of(&places, key))?;
        Ok(config)
    }

    /// Settings from a config file, if any, then from flags, which win.
    ///
    /// A flag's value is read as TOML where the key is no text (`true`, `2e-4`, `["q_proj"]`) and else taken as it is;
    /// a list may be written with commas: `q_proj,v_proj`.
    pub fn assemble(file: Option<&Path>, flags: &[(&'static Key, String)]) -> Result<Self> {
        let (mut config, mut places) = match file {
            Some(path) => from_text(&read_text(path)?, path)?,
            None => (Self::default(), Places::new()),
        };
        for (key, text) in flags {
            key.apply(&mut config, &flag_value(key, text), &Place::Flag)?;
            places.insert(key.name, Place::Flag);
        }
        check_together(&config, |key| place_of(&places, key))?;
        Ok(config)
    }
}

fn place_of(places: &Places, key: &str) -> Place {
    places.get(key).cloned().unwrap_or(Place::Code)
}

fn read_text(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|e| Error::read(path, e))?;
    String::from_utf8(bytes).map_err(|e| {
        let before = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        Error::format(path, format!("line {line}"), "the text is not UTF-8", "Save the file as UTF-8.")
    })
}

fn from_text(text: &str, path: &Path) -> Result<(RunConfig, Places)> {
    let line_at = |offset: usize| text.as_bytes()[..offset].iter().filter(|byte| **byte == b'\n').count() + 1;
    let broken = |e: toml::de::Error| {
        let place = e.span().map(|span| format!("line {}", line_at(span.start))).unwrap_or_default();
        Error::format(
            path,
            place,
            e.message().replace('\n', ", "),
            "A config file is TOML: `key = value`, text in quotes.",
        )
    };
    let spans = DeTable::parse(text).map_err(broken)?;
    let values: toml::Table = text.parse().map_err(broken)?;
    let name = path.display().to_string();
    let mut config = RunConfig::default();
    let mut places = Places::new();
    let mut set = |table: Table, spans: &DeTable, values: &toml::Table| -> Result<()> {
        for (word, _) in spans {
            let value = &values[word.get_ref().as_ref()];
            let line = line_at(word.span().start);
            if table == Table::Run && Table::ALL.iter().any(|t| t.name() == Some(word.get_ref())) {
                continue;
            }
            let key = known_key(word.get_ref(), table, value, &name, line)?;
            let place = Place::File { path: name.clone(), line };
            key.apply(&mut config, value, &place)?;
            places.insert(key.name, place);
        }
        Ok(())
    };
    set(Table::Run, spans.get_ref(), &values)?;
    for table in Table::ALL {
        let Some((word, inner)) = table.name().and_then(|name| spans.get_ref().get_key_value(name)) else { continue };
        match (inner.get_ref(), &values[word.get_ref().as_ref()]) {
            (DeValue::Table(spans), Value::Table(values)) => set(table, spans, values)?,
            (_, value) => {
                let line = line_at(word.span().start);
                let what = format!("`{}` is `{value}` in `{name}`", word.get_ref());
                let hint = format!("It must be a table: begin it with a line `[{}]`.", word.get_ref());
                return Err(Error::config(format!("line {line}"), what, hint));
            }
        }
    }
    Ok((config, places))
}

/// The key called `word`, if it is one of `table`; else an error that names the nearest one.
fn known_key(word: &str, table: Table, value: &Value, file: &str, line: usize) -> Result<&'static Key> {
    let home = |key: &Key| match key.table.name() {
        Some(name) => format!("into the table `[{name}]`"),
        None => "to the top of the file, before the first table".to_owned(),
    };
    let found = Key::find(word);
    if let Some(key) = found.filter(|key| key.table == table) {
        return Ok(key);
    }
    let is_table = table == Table::Run && value.is_table();
    let hint = if is_table {
        let names = Table::ALL.into_iter().filter_map(Table::name);
        let table = nearest(word, names).unwrap_or_default();
        format!("Rename it to `[{table}]`, the nearest table.")
    } else if let Some(key) = found {
        format!("Move it {}.", home(key))
    } else {
        // The same table comes first, so that it wins among equals.
        let here = KEYS.iter().filter(|key| key.table == table);
        let elsewhere = KEYS.iter().filter(|key| key.table != table);
        let name = nearest(word, here.chain(elsewhere).map(|key| key.name)).unwrap_or_default();
        match Key::find(name).filter(|key| key.table != table) {
            Some(key) => format!("Rename it to `{name}`, the nearest key, and move it {}.", home(key)),
            None => format!("Rename it to `{name}`, the nearest key."),
        }
    };
    let what = if is_table {
        format!("unknown table `[{word}]` in `{file}`")
    } else {
        format!("unknown key `{word}` in `{file}`")
    };
    Err(Error::config(line_and_table(line, table), what, hint))
}

/// A flag's text as the TOML value that it stands for.
fn flag_value(key: &Key, text: &str) -> Value {
    let toml = format!("value = {text}").parse::<toml::Table>().ok().and_then(|mut table| table.remove("value"));
    let is_list = matches!(key.default(), Some(Value::Array(_)));
    match toml {
        // A path may look like a number or a date.
        Some(value) if !key.is_text() || value.is_str() => value,
        _ if is_list && text != "all-linear" => Value::Array(text.split(',').map(|part| part.trim().into()).collect()),
        _ => text.into(),
    }
}

/// Checks values that are each in range but do not go together.
pub(super) fn check_together(config: &RunConfig, place: impl Fn(&str) -> Place) -> Result<()> {
    let refuse = |name: &'static str, what: &str, hint: &str| {
        let place = place(name);
        let detail = Key::find(name).map(|key| place.detail(key)).unwrap_or_default();
        Err(Error::config(detail, format!("{what}{}", place.file()), hint))
    };
    if config.method == Method::Qlora && config.quantization.bnb_4bit_quant_type.is_none() {
        let what = "`bnb_4bit_quant_type` is `\"none\"` although `method` is `\"qlora\"`";
        return refuse("bnb_4bit_quant_type", what, "Set it to `\"nf4\"`, or `method` to `\"lora\"`.");
    }
    let adapts = matches!(config.method, Method::Lora | Method::Qlora);
    if !adapts && config.init_adapter.is_some() {
        let what = "`init_adapter` is set although `method` trains no adapter";
        return refuse("init_adapter", what, "Leave it out, or set `method` to `\"lora\"` or `\"qlora\"`.");
    }
    if !adapts && config.sft.loraplus_lr_ratio.is_some() {
        let what = "`loraplus_lr_ratio` is set although `method` trains no adapter";
        return refuse("loraplus_lr_ratio", what, "Leave it out, or set `method` to `\"lora\"` or `\"qlora\"`.");
    }
    let prompt = &config.prompt_tuning;
    if config.method != Method::PromptTuning && *prompt != Default::default() {
        let what = "there are settings for prompt tuning although `method` is another";
        return refuse(
            "num_virtual_tokens",
            what,
            "Leave `[prompt_tuning]` out, or set `method` to `\"prompt-tuning\"`.",
        );
    }
    if config.method == Method::PromptTuning
        && (prompt.prompt_tuning_init == PromptInit::Text) != prompt.prompt_tuning_init_text.is_some()
    {
        let what =
            "`prompt_tuning_init = \"TEXT\"` and `prompt_tuning_init_text` go together, and one of them is missing";
        return refuse("prompt_tuning_init", what, "Set both, or neither.");
    }
    Ok(())
}
