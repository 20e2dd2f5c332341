//! The config's keys as flags, read from the library's table of keys.

use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches};
use ferrotune::train::config::{KEYS, Key};
use toml::Value;

/// Config keys given as flags, in the table's order.
pub(crate) struct ConfigFlags(pub(crate) Vec<(&'static Key, String)>);

impl clap::Args for ConfigFlags {
    fn augment_args(command: Command) -> Command {
        KEYS.iter().fold(command, |command, key| command.arg(flag(key)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// `--learning-rate`, and `--learning_rate` for those who know the key.
fn flag(key: &'static Key) -> Arg {
    let default = key.default();
    let value_name = match default {
        Some(Value::Boolean(_)) => "BOOL",
        Some(Value::Integer(_) | Value::Float(_)) => "N",
        Some(Value::Array(_)) => "LIST",
        None if key.expects.starts_with("a number") || key.expects.starts_with("a whole number") => "N",
        _ => "TEXT",
    };
    let default_text = match &default {
        Some(Value::String(text)) => format!(" [default: {text}]"),
        Some(Value::Array(items)) => {
            let words: Vec<_> = items.iter().filter_map(Value::as_str).collect();
            format!(" [default: {}]", words.join(","))
        }
        Some(value) => format!(" [default: {value}]"),
        None => String::new(),
    };
    let mut arg = Arg::new(key.name)
        .long(key.name.replace('_', "-"))
        .value_name(value_name)
        .allow_negative_numbers(true)
        .action(ArgAction::Set)
        .help(format!("{}{default_text}", key.help))
        .help_heading(match key.table.name() {
            Some(table) => format!("Config keys of [{table}]"),
            None => "Config keys".to_owned(),
        });
    if key.name.contains('_') {
        arg = arg.alias(key.name);
    }
    // A switch alone means true, as in `--packing`.
    if matches!(default, Some(Value::Boolean(_))) {
        arg = arg.num_args(0..=1).default_missing_value("true");
    }
    arg
}

impl FromArgMatches for ConfigFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |key: &'static Key| matches.get_one::<String>(key.name).map(|text| (key, text.clone()));
        Ok(Self(KEYS.iter().filter_map(given).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
