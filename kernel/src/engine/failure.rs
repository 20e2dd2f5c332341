//! A failed cell as Jupyter tells of it.

use evcxr::{CompilationError, Error};

use super::relay::Fault;

/// The content of an `error` message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The kind of error.
    pub ename: String,
    /// The error in a line or two.
    pub evalue: String,
    /// What is shown: lines that may carry colours.
    pub traceback: Vec<String>,
}

impl Failure {
    /// An error that has nothing more to show than its text.
    pub fn new(ename: &str, evalue: impl Into<String>) -> Self {
        let evalue = evalue.into();
        let mut lines = evalue.lines();
        let first = lines.next().unwrap_or_default();
        let head =
            if first.is_empty() { format!("{RED}{ename}{PLAIN}") } else { format!("{RED}{ename}{PLAIN}: {first}") };
        let traceback = std::iter::once(head).chain(lines.map(str::to_owned)).collect();
        Self { ename: ename.into(), evalue, traceback }
    }

    pub(super) fn of_fault(fault: Fault) -> Self {
        match fault {
            Fault::Error(text) => Self::new("Error", text),
            Fault::Panic { message, place } => {
                let mut failure = Self::new("Panic", message);
                // The cell's own lines are evcxr's numbers, which nobody can look up.
                if !place.is_empty() && !place.starts_with("src/lib.rs:") {
                    failure.traceback.push(format!("  at {place}"));
                }
                failure
            }
        }
    }

    /// `code` is the cell.
    pub(super) fn of_error(error: &Error, code: &str) -> Self {
        match error {
            Error::CompilationErrors(errors) => of_compiler(errors, code),
            Error::TypeRedefinedVariablesLost(names) => Self::new("VariablesLost", lost(names)),
            Error::SubprocessTerminated(text) => Self::new("ProcessEnded", ended(text)),
            Error::Message(text) => Self::new("Error", text.clone()),
        }
    }
}

const RED: &str = "\u{1b}[31m";
const CYAN: &str = "\u{1b}[36m";
const PLAIN: &str = "\u{1b}[0m";

fn lost(names: &[String]) -> String {
    format!("a type was defined anew, and the variables of the old one are lost: {}", names.join(", "))
}

/// What is known of a process that ended without being asked to.
fn ended(text: &str) -> String {
    let status = text.rsplit("Subprocess terminated with status: ").next().unwrap_or(text).trim();
    let cause = match status.split(&[' ', ':'][..]).find_map(|word| word.parse::<i32>().ok()) {
        Some(9) if status.starts_with("signal") => " (killed: most often because memory ran out)",
        Some(6) if status.starts_with("signal") => " (it aborted)",
        Some(11) if status.starts_with("signal") => " (it touched memory that it may not)",
        _ => "",
    };
    format!(
        "the process that runs cells ended with {status}{cause}. All variables are lost; the kernel goes on with a new process."
    )
}

fn of_compiler(errors: &[CompilationError], code: &str) -> Failure {
    let kind = errors.iter().find_map(|error| error.code()).unwrap_or("CompilationError");
    let evalue = errors.iter().map(CompilationError::message).collect::<Vec<_>>().join("\n");
    let mut traceback = Vec::new();
    for error in errors {
        let code_name = error.code().map(|code| format!("[{code}]")).unwrap_or_default();
        traceback.push(format!("{RED}error{code_name}{PLAIN}: {}", error.message()));
        for message in error.spanned_messages() {
            match &message.span {
                Some(span) => {
                    let columns = span.start_column..if span.end_line == span.start_line { span.end_column } else { 0 };
                    traceback.extend(labelled(code, span.start_line, columns, &message.label, message.is_primary));
                }
                None => traceback.extend(message.lines.iter().cloned()),
            }
        }
        let helps = error.help().into_iter().chain(error.evcxr_extra_hint().map(str::to_owned));
        traceback.extend(helps.map(|help| format!("{CYAN}help{PLAIN}: {help}")));
    }
    Failure { ename: kind.into(), evalue, traceback }
}

/// A line of the cell, and under it what is to be said about some of its columns, both from 1; an end before the start stands
/// for the end of the line.
fn labelled(
    code: &str,
    line: usize,
    columns: std::ops::Range<usize>,
    label: &str,
    primary: bool,
) -> impl Iterator<Item = String> {
    let text = code.lines().nth(line.saturating_sub(1)).unwrap_or_default();
    let length = text.chars().count();
    let start = columns.start.clamp(1, length + 1);
    let end = columns.end.min(length + 1);
    let end = if end > start { end } else { (length + 1).max(start + 1) };
    let (mark, colour) = if primary { ("^", RED) } else { ("-", CYAN) };
    let (number, margin) = (line.to_string(), " ".repeat(line.to_string().len()));
    let (before, marks) = (" ".repeat(start - 1), mark.repeat(end - start));
    [
        format!("{CYAN}{number} |{PLAIN} {text}"),
        format!("{CYAN}{margin} |{PLAIN} {before}{colour}{marks}{PLAIN} {colour}{label}{PLAIN}"),
    ]
    .into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_shown_with_its_label() {
        let plain = |s: String| s.replace(RED, "").replace(CYAN, "").replace(PLAIN, "");
        let lines = |line, columns| {
            labelled("let a = 1;\nlet đá: i32 = \"x\";", line, columns, "expected `i32`", true)
                .map(plain)
                .collect::<Vec<_>>()
        };
        assert_eq!(lines(2, 15..18), ["2 | let đá: i32 = \"x\";", "  |               ^^^ expected `i32`"]);
        assert_eq!(lines(1, 5..5)[1], "  |     ^^^^^^ expected `i32`", "to the end of the line");
        assert_eq!(lines(9, 40..41)[1], "  | ^ expected `i32`", "a line that is not there");
    }

    #[test]
    fn a_dead_process_is_explained() {
        let failure = |text: &str| Failure::of_error(&Error::SubprocessTerminated(text.into()), "");
        let killed = failure("last words\nSubprocess terminated with status: signal: 9 (SIGKILL)");
        assert_eq!(killed.ename, "ProcessEnded");
        assert!(
            killed.evalue.contains("signal: 9 (SIGKILL) (killed: most often because memory ran out)"),
            "{}",
            killed.evalue
        );
        let left = failure("Subprocess terminated with status: exit status: 3");
        assert!(left.evalue.contains("ended with exit status: 3. All variables are lost"), "{}", left.evalue);
    }

    #[test]
    fn a_panic_names_foreign_places_only() {
        let panic = |place: &str| Failure::of_fault(Fault::Panic { message: "no\nmore".into(), place: place.into() });
        assert_eq!(panic("src/lib.rs:7").traceback, [format!("{RED}Panic{PLAIN}: no"), "more".into()]);
        assert_eq!(panic("candle/tensor.rs:7").traceback[2], "  at candle/tensor.rs:7");
    }
}
