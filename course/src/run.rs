//! Runs a lesson's cells by the program `lesson`, and reads what they show.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::{Map, Value};

use crate::course::read;
use crate::record::{CellRecord, Lines, Output, source_digests};
use crate::source::Cell;
use crate::{Course, Error, Language, Result};

/// Runs all cells of `lesson` in the folder of its notebooks; `on_cell` hears of each that begins.
///
/// Cells that are recorded elsewhere are not among the results.
///
/// Errors: [`Error::Program`] where a cell fails that is not meant to; [`Error::Lesson`] where one is, and does not.
pub fn run(
    course: &Course,
    lesson: &str,
    program: &Path,
    mut on_cell: impl FnMut(&str),
) -> Result<Vec<(String, CellRecord)>> {
    let cells = course.cells(lesson)?;
    let digests = source_digests(&cells);
    let folder = course.root().join("notebooks/en");
    std::fs::create_dir_all(&folder).map_err(Error::write(&folder))?;
    let mut command = Command::new(program);
    command.arg(lesson).current_dir(&folder);
    // Displays come as frames.
    command.env("JUPYTER_RICH_STDOUT", "1").env_remove("EVCXR_IS_RUNTIME");
    // Errors of candle would show addresses.
    command.env("RUST_BACKTRACE", "0").env("RUST_LIB_BACKTRACE", "0");
    let failed = |what: String| Error::Program { program: format!("{} {lesson}", program.display()), what };
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.as_mut().map_err(|e| failed(format!("could not be started: {e}.")))?;
    let Some((stdout, mut stderr)) = child.stdout.take().zip(child.stderr.take()) else {
        return Err(failed("has no output.".into()));
    };
    let errors = std::thread::spawn(move || std::io::read_to_string(&mut stderr).unwrap_or_default());
    let mut shown: Vec<(String, Shown)> = Vec::new();
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.map_err(|e| failed(format!("could not be read: {e}.")))?;
        let line = String::from_utf8_lossy(&line);
        // A line's end after a frame is the frame's own; text without one may stand before it.
        let (text, frame) = line.split_once('\u{1e}').map_or((&*line, None), |(text, frame)| (text, Some(frame)));
        if let Some((_, last)) = shown.last_mut()
            && (frame.is_none() || !text.is_empty())
        {
            last.text(text, frame.is_none());
        }
        let Some(frame) = frame.and_then(|frame| serde_json::from_str::<Value>(frame).ok()) else { continue };
        let content = &frame["content"];
        match (frame["msg_type"].as_str(), content["cell"].as_str()) {
            (Some("begin"), Some(id)) => {
                if let Some((_, last)) = shown.last_mut() {
                    last.end();
                }
                on_cell(id);
                shown.push((id.to_owned(), Shown::default()));
            }
            (Some(msg_type), _) => {
                if let Some((_, last)) = shown.last_mut() {
                    last.message(msg_type, content);
                }
            }
            _ => {}
        }
    }
    let status = child.wait().map_err(|e| failed(format!("could not be waited for: {e}.")))?;
    let errors = errors.join().unwrap_or_default();
    if !status.success() {
        let at = shown.last().map_or("before its first cell", |(id, _)| id);
        return Err(failed(format!("failed at `{at}`: {}", errors.trim())));
    }
    if let Some((_, last)) = shown.last_mut() {
        last.end();
    }
    let mut records = Vec::new();
    for (cell, digest) in cells.iter().zip(&digests).filter(|(cell, _)| !cell.class.recorded) {
        let Some((_, shown)) = shown.iter().find(|(id, _)| *id == cell.id) else { continue };
        check_failure(lesson, cell, shown)?;
        // Hundredths are enough; more would only differ.
        let seconds = (shown.seconds * 100.0).round() / 100.0;
        let outputs = shown.outputs.iter().map(|(output, _)| output.clone()).collect();
        records.push((cell.id.clone(), CellRecord { source: digest.clone(), seconds, outputs }));
    }
    Ok(records)
}

fn check_failure(lesson: &str, cell: &Cell, shown: &Shown) -> Result<()> {
    let raised = shown.outputs.iter().any(|(output, _)| matches!(output, Output::Error { .. }));
    if cell.class.raises == raised {
        return Ok(());
    }
    let what = "is meant to fail (`raises-exception`) and does not";
    Err(Error::lesson(format!("cell `{}` of `{lesson}`", cell.id), what, "Make it fail, or take the word off."))
}

/// Runs a lesson's notebook by `ferrotune-kernel execute`, and reads what its cells showed from `target/course`.
///
/// Errors: [`Error::Program`] where a cell fails that is not meant to.
pub fn in_kernel(
    course: &Course,
    kernel: &Path,
    language: Language,
    lesson: &str,
) -> Result<Vec<(String, CellRecord)>> {
    let out = course.root().join("target/course").join(language.code());
    std::fs::create_dir_all(&out).map_err(Error::write(&out))?;
    let out = out.join(format!("{lesson}.ipynb"));
    let program = format!("{} execute", kernel.display());
    let mut command = Command::new(kernel);
    command.args(["execute", "--config"]).arg(course.root().join("kernel/ferrotune.toml"));
    command.arg("--output").arg(&out).arg(course.notebook_path(language, lesson));
    command.env("RUST_BACKTRACE", "0").env("RUST_LIB_BACKTRACE", "0");
    succeed(&mut command, &program)?;
    let failed = |what: String| Error::Program { program: program.clone(), what };
    let notebook: Value = serde_json::from_str(&read(&out)?).map_err(|e| failed(format!("wrote no notebook: {e}.")))?;
    let cells = notebook["cells"].as_array().map(Vec::as_slice).unwrap_or_default();
    let code = cells.iter().filter(|cell| cell["cell_type"] == "code");
    let record = |cell: &Value| {
        let id = cell["id"].as_str().unwrap_or_default().to_owned();
        let outputs = serde_json::from_value(cell["outputs"].clone());
        let outputs =
            outputs.map_err(|e| failed(format!("gave the cell `{id}` an output that no record has: {e}.")))?;
        Ok((id, CellRecord { source: String::new(), seconds: 0.0, outputs }))
    };
    code.map(record).collect()
}

/// Builds the program `lesson`, as the tests build it, and returns where it is.
///
/// Errors: [`Error::Program`].
pub fn build(course: &Course) -> Result<PathBuf> {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(course.root()).args(["build", "--release", "--workspace", "--example", "lesson"]);
    succeed(&mut cargo, "cargo build --example lesson")?;
    let target = std::env::var_os("CARGO_TARGET_DIR");
    let target = target.map_or_else(|| course.root().join("target"), |folder| course.root().join(folder));
    Ok(target.join("release/examples/lesson"))
}

/// Runs a program to its end; what it says goes where this one's words go.
fn succeed(command: &mut Command, program: &str) -> Result<()> {
    let failed = |what: String| Err(Error::Program { program: program.into(), what });
    match command.stdin(Stdio::null()).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => failed("failed; it says why above.".into()),
        Err(e) => failed(format!("could not be started: {e}.")),
    }
}

/// What a cell has shown so far, each output with the name by which it can be replaced.
struct Shown {
    outputs: Vec<(Output, Option<String>)>,
    begun: Instant,
    seconds: f64,
    /// Whether the next output takes the place of those before it.
    clear: bool,
}

impl Default for Shown {
    fn default() -> Self {
        Self { outputs: Vec::new(), begun: Instant::now(), seconds: 0.0, clear: false }
    }
}

impl Shown {
    fn end(&mut self) {
        self.seconds = self.begun.elapsed().as_secs_f64();
    }

    fn outputs(&mut self) -> &mut Vec<(Output, Option<String>)> {
        if std::mem::take(&mut self.clear) {
            self.outputs.clear();
        }
        &mut self.outputs
    }

    fn text(&mut self, text: &str, ended: bool) {
        let end = if ended { "\n" } else { "" };
        if let Some((Output::Stream { text: before, .. }, _)) = self.outputs().last_mut() {
            before.0 += &format!("{text}{end}");
            return;
        }
        let stream = Output::Stream { name: "stdout".into(), text: Lines(format!("{text}{end}")) };
        self.outputs().push((stream, None));
    }

    fn message(&mut self, msg_type: &str, content: &Value) {
        let id = content["transient"]["display_id"].as_str().map(str::to_owned);
        let empty = Map::new();
        let output = Output::display(content["data"].as_object().unwrap_or(&empty));
        let word = |key: &str| content[key].as_str().unwrap_or_default();
        match msg_type {
            "display_data" => self.outputs().push((output, id)),
            "update_display_data" => {
                if let Some((old, _)) = self.outputs.iter_mut().find(|(_, other)| id.is_some() && *other == id) {
                    *old = output;
                }
            }
            "clear_output" if content["wait"] == Value::Bool(true) => self.clear = true,
            "clear_output" => self.outputs.clear(),
            "error" => self.outputs().push((Output::error(word("ename"), word("evalue")), None)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_updated_stays_where_it_is_and_text_is_joined() {
        let mut shown = Shown::default();
        let bar = |text: &str| json!({"data": {"text/plain": text}, "transient": {"display_id": "7"}});
        shown.message("display_data", &bar("0 %"));
        shown.text("a", false);
        shown.text("b", true);
        shown.message("update_display_data", &bar("100 %"));
        shown.message("error", &json!({"ename": "Panic", "evalue": "no\nwhy"}));
        let words: Vec<String> = shown.outputs.iter().map(|(output, _)| output.text()).collect();
        assert_eq!(words, ["100 %", "ab\n", "Panic: no\nwhy"]);
        shown.message("clear_output", &json!({"wait": true}));
        assert_eq!(shown.outputs.len(), 3);
        shown.text("c", true);
        assert_eq!(shown.outputs.len(), 1);
    }
}
