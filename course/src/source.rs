//! The code of a lesson's cells: one Rust file with anchors.
//!
//! ```text
//! // ANCHOR: levels
//! let levels = QuantType::Nf4.code();
//! // ANCHOR_END: levels
//! ```
//!
//! Behind an anchor's name stands what is special about the cell: `raises-exception`, `timing`, `recorded`, `solution`,
//! `written`, `tolerance=0.05` or `within=3`. The build script reads the file by this module, too.

/// One cell, in the order of the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    pub id: String,
    /// The code without the indentation that all of its lines share.
    pub code: String,
    pub class: Class,
    /// Of its anchor, from 1.
    pub line: usize,
}

/// What an anchor says about its cell.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Class {
    /// The code fails on purpose.
    pub raises: bool,
    /// What it shows carries times, which are no result.
    pub timing: bool,
    /// What it shows was made elsewhere; it is not run here.
    pub recorded: bool,
    /// It solves an exercise: the book folds it, a notebook has no cell of it.
    pub solution: bool,
    /// A model wrote what it shows: another instruction set rounds otherwise, and the words come out otherwise.
    pub written: bool,
    /// By how much numbers may differ from the record, relative to it.
    pub tolerance: Option<f64>,
    /// By how much numbers may differ from the record, whatever they are.
    pub within: Option<f64>,
}

impl Class {
    /// Whether all that it shows is the same on every machine.
    pub fn is_exact(self) -> bool {
        !(self.timing || self.recorded || self.written) && self.tolerance.is_none() && self.within.is_none()
    }

    /// The notebook's tags.
    pub fn tags(self) -> Vec<&'static str> {
        let tags = [(self.raises, "raises-exception"), (self.timing, "timing"), (self.recorded, "recorded")];
        tags.into_iter().filter(|(set, _)| *set).map(|(_, tag)| tag).collect()
    }
}

/// The cells of a file.
///
/// Errors: a sentence about the first anchor that is not closed, is not known, or says what is not understood.
pub fn cells(text: &str) -> Result<Vec<Cell>, String> {
    let mut cells: Vec<Cell> = Vec::new();
    let mut open: Option<(Cell, Vec<&str>)> = None;
    for (number, line) in (1..).zip(text.lines()) {
        if let Some(words) = line.trim().strip_prefix("// ANCHOR_END: ") {
            let Some((mut cell, lines)) = open.take().filter(|(cell, _)| cell.id == words.trim()) else {
                return Err(format!("line {number} ends the cell `{words}`, which is not open"));
            };
            cell.code = unindented(&lines);
            cells.push(cell);
        } else if let Some(words) = line.trim().strip_prefix("// ANCHOR: ") {
            if let Some((cell, _)) = &open {
                return Err(format!("line {number} begins a cell inside of `{}`", cell.id));
            }
            let (id, class) = anchor(words).map_err(|what| format!("line {number}: {what}"))?;
            if cells.iter().any(|cell| cell.id == id) {
                return Err(format!("line {number}: there are two cells `{id}`"));
            }
            open = Some((Cell { id, code: String::new(), class, line: number }, Vec::new()));
        } else if let Some((_, lines)) = &mut open {
            lines.push(line);
        }
    }
    match open {
        Some((cell, _)) => Err(format!("the cell `{}` is not closed", cell.id)),
        None => Ok(cells),
    }
}

fn anchor(words: &str) -> Result<(String, Class), String> {
    let mut words = words.split_whitespace();
    let id = words.next().unwrap_or_default();
    if id.is_empty() || !id.bytes().all(|b| b.is_ascii_lowercase() || b == b'-') {
        return Err(format!("`{id}` is no name of a cell: lower-case letters and hyphens"));
    }
    let mut class = Class::default();
    for word in words {
        let value = |key: &str| word.strip_prefix(key).and_then(|value| value.parse().ok());
        match (word, value("tolerance="), value("within=")) {
            ("raises-exception", ..) => class.raises = true,
            ("timing", ..) => class.timing = true,
            ("recorded", ..) => class.recorded = true,
            ("solution", ..) => class.solution = true,
            ("written", ..) => class.written = true,
            (_, Some(tolerance), _) => class.tolerance = Some(tolerance),
            (_, _, Some(within)) => class.within = Some(within),
            _ => return Err(format!("`{word}` says nothing about a cell")),
        }
    }
    Ok((id.into(), class))
}

fn unindented(lines: &[&str]) -> String {
    let indent = |line: &&str| line.len() - line.trim_start().len();
    let shared = lines.iter().filter(|line| !line.trim().is_empty()).map(indent).min().unwrap_or(0);
    let lines: Vec<&str> = lines.iter().map(|line| line.get(shared..).unwrap_or_default()).collect();
    lines.join("\n").trim_matches('\n').into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_have_an_id_a_class_and_code_without_indentation() {
        let text = "fn f() {\n    // ANCHOR: one\n    let x = {\n        1\n    };\n    // ANCHOR_END: one\n    // ANCHOR: two timing tolerance=0.5\n    g();\n    // ANCHOR_END: two\n}\n";
        let cells = cells(text).unwrap();
        assert_eq!(cells[0].code, "let x = {\n    1\n};");
        assert_eq!((cells[0].id.as_str(), cells[0].class, cells[0].line), ("one", Class::default(), 2));
        assert_eq!(cells[1].class, Class { timing: true, tolerance: Some(0.5), ..Class::default() });
        assert_eq!(cells[1].class.tags(), ["timing"]);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let error = |text: &str| cells(text).unwrap_err();
        assert_eq!(error("// ANCHOR: a\n"), "the cell `a` is not closed");
        assert_eq!(error("// ANCHOR: A\n"), "line 1: `A` is no name of a cell: lower-case letters and hyphens");
        assert_eq!(error("// ANCHOR: a fast\n"), "line 1: `fast` says nothing about a cell");
        assert_eq!(error("// ANCHOR_END: a\n"), "line 1 ends the cell `a`, which is not open");
        assert_eq!(error("// ANCHOR: a\n// ANCHOR: b\n"), "line 2 begins a cell inside of `a`");
        let twice = "// ANCHOR: a\n// ANCHOR_END: a\n// ANCHOR: a\n// ANCHOR_END: a\n";
        assert_eq!(error(twice), "line 3: there are two cells `a`");
    }
}
