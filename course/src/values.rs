//! Numbers that a cell showed, for the prose.

use crate::compare::number_len;
use crate::record::Record;
use crate::{Course, Result};

/// [`find`], where the cell may be another lesson's: `{{#value lesson/cell; label}}`.
///
/// Errors: a sentence.
pub(crate) fn look_up(course: &Course, own: &Record, words: &str) -> Result<String, String> {
    let (id, rest) = words.split_once(';').unwrap_or((words, ""));
    let Some((lesson, cell)) = id.trim().split_once('/') else { return find(own, words) };
    let record = Record::read(course, lesson).map_err(|e| e.to_string())?;
    find(&record, &format!("{cell};{rest}")).map_err(|what| format!("in `{lesson}`, {what}"))
}

/// What `{{#value cell; label}}` or `{{#value cell; row; column}}` stands for.
///
/// A label begins a line of what the cell showed; the value is the first number after it, with its percent sign. A row and a
/// column are named by a table's first column and its head; the value is the whole table cell.
///
/// Errors: a sentence.
pub fn find(record: &Record, words: &str) -> Result<String, String> {
    let mut words = words.split(';').map(str::trim);
    let id = words.next().unwrap_or_default();
    let cell = record.cell(id).ok_or_else(|| format!("no cell `{id}` is recorded"))?;
    let texts = || cell.outputs.iter().map(|output| output.text());
    match (words.next(), words.next()) {
        (Some(label), None) => texts()
            .find_map(|text| text.lines().find_map(|line| after(line.trim().strip_prefix(label)?)))
            .ok_or_else(|| format!("the cell `{id}` shows no line that begins with `{label}` and has a number")),
        (Some(row), Some(column)) => texts()
            .find_map(|text| in_table(&text, row, column))
            .ok_or_else(|| format!("the cell `{id}` shows no table with a row `{row}` and a column `{column}`")),
        _ => Err(format!("`{id}` is followed by no label; `{{{{#value cell; label}}}}` has one")),
    }
}

/// The first number of a text.
fn after(text: &str) -> Option<String> {
    let starts = text.char_indices().map(|(at, _)| at);
    let (at, length) = starts.filter_map(|at| Some((at, number_len(text, at)?.1))).next()?;
    let percent = if text[at + length..].starts_with('%') { "%" } else { "" };
    Some(format!("{}{percent}", &text[at..at + length]))
}

/// The tables of `ferrotune::show::Table`: columns stand where the rule under the head has its strokes.
fn in_table(text: &str, row: &str, column: &str) -> Option<String> {
    let lines: Vec<Vec<char>> = text.lines().map(|line| line.chars().collect()).collect();
    let rule = lines.iter().position(|line| line.first() == Some(&'─'))?;
    let mut columns = Vec::new();
    for (at, c) in lines[rule].iter().enumerate() {
        if *c == '─' && (at == 0 || lines[rule][at - 1] != '─') {
            columns.push(at);
        }
    }
    let cell = |line: &[char], index: usize| -> String {
        let end = columns.get(index + 1).copied().unwrap_or(line.len()).min(line.len());
        let start = columns.get(index).copied().unwrap_or(end).min(end);
        line[start..end].iter().collect::<String>().trim().into()
    };
    let head = lines.get(rule.checked_sub(1)?)?;
    let index = (0..columns.len()).find(|index| cell(head, *index) == column)?;
    let line = lines.get(rule + 1..)?.iter().find(|line| cell(line, 0) == row)?;
    Some(cell(line, index))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{CellRecord, Lines, Output};

    fn record(text: &str) -> Record {
        let mut record = Record::default();
        let outputs = vec![Output::Stream { name: "stdout".into(), text: Lines(text.into()) }];
        record.set("c", &CellRecord { source: String::new(), seconds: 0.0, outputs });
        record
    }

    #[test]
    fn a_label_begins_a_line() {
        let record = record("x\ntrained: 65,536 of 16 (0.39%)\nshare = 0.39%\nerror 1.2e-7\n");
        let value = |words| find(&record, words);
        assert_eq!(value("c; trained").unwrap(), "65,536");
        assert_eq!(value("c; share").unwrap(), "0.39%");
        assert_eq!(value("c; error").unwrap(), "1.2e-7");
        assert!(value("c; x").unwrap_err().contains("begins with `x`"));
        assert!(value("d; x").unwrap_err().contains("no cell `d`"));
    }

    #[test]
    fn a_table_is_read_by_its_columns() {
        let record =
            record("data    NF4     FP4 é\n──────  ──────  ─────\nnormal  0.0920  0.106\nt5 é    0.1045  0.112\n");
        assert_eq!(find(&record, "c; t5 é; NF4").unwrap(), "0.1045");
        assert_eq!(find(&record, "c; normal; FP4 é").unwrap(), "0.106");
        assert!(find(&record, "c; normal; INT4").is_err());
    }
}
