//! Mistakes on the command line, each as one paragraph that says what to do.

use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::failure::Failure;

/// Shows the help that was asked for (exit code 0), or says what is wrong with the usage (2).
pub(crate) fn report(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        return match error.print() {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => Failure::from(e).report(),
        };
    }
    Failure::Input(describe(error)).report()
}

fn describe(error: &clap::Error) -> String {
    let get = |kind| error.get(kind).map(ContextValue::to_string).filter(|text| !text.is_empty());
    // clap names an argument with its value, `--config <FILE>`, and several with line ends between.
    let name = |kind| {
        let text = get(kind)?;
        Some(text.split_whitespace().next().unwrap_or(&text).trim_end_matches(',').to_owned())
    };
    let argument = name(ContextKind::InvalidArg).unwrap_or_default();
    let value = get(ContextKind::InvalidValue).unwrap_or_default();
    let command = std::env::args().nth(1).filter(|word| !word.starts_with('-')).map(|word| format!(" {word}"));
    let command = command.filter(|_| error.kind() != ErrorKind::InvalidSubcommand).unwrap_or_default();
    let help = format!("`ferrotune{command} --help` lists what there is.");
    let hint = |suggestion: Option<String>| match suggestion {
        Some(nearest) => format!("Write `{nearest}`, the nearest one."),
        None => help.clone(),
    };
    match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let word = get(ContextKind::InvalidSubcommand).unwrap_or_default();
            format!("unknown command `{word}`. {}", hint(name(ContextKind::SuggestedSubcommand)))
        }
        ErrorKind::UnknownArgument => {
            let kind = if argument.starts_with('-') { "flag" } else { "argument" };
            format!("unknown {kind} `{argument}`. {}", hint(name(ContextKind::SuggestedArg)))
        }
        ErrorKind::MissingRequiredArgument => {
            let all = match error.get(ContextKind::InvalidArg) {
                Some(ContextValue::Strings(all)) => all.iter().map(|arg| flags(arg)).collect::<Vec<_>>().join(" and "),
                _ => format!("`{argument}`"),
            };
            format!("{all} must be given. {help}")
        }
        ErrorKind::InvalidValue if value.is_empty() => format!("`{argument}` needs a value. {help}"),
        ErrorKind::InvalidValue => {
            let valid = get(ContextKind::ValidValue).map(|v| format!("Write one of {v}.")).unwrap_or(help);
            format!("`{argument}` is `{value}`. {valid}")
        }
        ErrorKind::ValueValidation => {
            let source = std::error::Error::source(error).map(|e| format!(": {e}")).unwrap_or_default();
            format!("`{argument}` is `{value}`{source}. {help}")
        }
        ErrorKind::ArgumentConflict => {
            let other = name(ContextKind::PriorArg).unwrap_or_default();
            if other == argument {
                format!("`{argument}` is given twice. Give it once.")
            } else {
                format!("`{argument}` does not go with `{other}`. Leave one of them out.")
            }
        }
        _ => {
            let text = error.render().to_string();
            text.trim_start_matches("error: ").to_owned()
        }
    }
}

/// The flags of clap's `--config <FILE>` or `<--prompt <P>|--prompts <F>>`, in backticks.
fn flags(argument: &str) -> String {
    let words = argument.split(['<', '>', '|', ' ']).filter(|word| word.starts_with("--"));
    let flags: Vec<_> = words.map(|word| format!("`{word}`")).collect();
    if flags.is_empty() { format!("`{argument}`") } else { flags.join(" or ") }
}
