//! Tables for a terminal and for Markdown.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::display::escape;
use super::markdown;

/// Rows under headers; cells are plain text.
///
/// ```
/// use ferrotune::show::Table;
///
/// let mut table = Table::new(["món", "giá"]).right(1);
/// table.row(["bạc xỉu", "29"]);
/// table.row(["trà đào", "5"]);
/// assert_eq!(table.to_text(), "món      giá\n───────  ───\nbạc xỉu   29\ntrà đào    5\n");
/// ```
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

#[derive(Clone, Debug)]
struct Column {
    header: String,
    right: bool,
    limit: usize,
}

impl Table {
    /// A table without rows; every column is left-aligned and as wide as its widest cell.
    pub fn new<S: Into<String>>(headers: impl IntoIterator<Item = S>) -> Self {
        let column = |header: S| Column { header: header.into(), right: false, limit: usize::MAX };
        Self { columns: headers.into_iter().map(column).collect(), rows: Vec::new() }
    }

    /// Aligns the column at `index` (from 0) to the right. An index past the last column changes nothing.
    #[must_use]
    pub fn right(mut self, index: usize) -> Self {
        if let Some(column) = self.columns.get_mut(index) {
            column.right = true;
        }
        self
    }

    /// Aligns every column but the first to the right.
    #[must_use]
    pub fn numeric(mut self) -> Self {
        self.columns.iter_mut().skip(1).for_each(|column| column.right = true);
        self
    }

    /// Cuts what is wider than `width` terminal columns in the column at `index`, and ends it in `…`. Text only:
    /// Markdown wraps by itself. An index past the last column changes nothing; a width of 0 counts as 1.
    #[must_use]
    pub fn limit(mut self, index: usize, width: usize) -> Self {
        if let Some(column) = self.columns.get_mut(index) {
            column.limit = width.max(1);
        }
        self
    }

    /// Adds a row. Cells that it lacks are empty; cells past the last column are left out.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        let mut cells: Vec<String> = cells.into_iter().map(Into::into).collect();
        cells.resize(self.columns.len(), String::new());
        self.rows.push(cells);
    }

    /// Adds a row of a name and numbers, with `digits` after the point.
    pub fn numbers(&mut self, name: impl Into<String>, values: impl IntoIterator<Item = f64>, digits: usize) {
        let values = values.into_iter().map(|value| format!("{value:.digits$}"));
        self.row(std::iter::once(name.into()).chain(values));
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table for a terminal, aligned by the width that letters have there. Each line ends in a line feed; line
    /// breaks in cells become spaces and other control characters `�`, so that no cell can steer the terminal.
    pub fn to_text(&self) -> String {
        let headers: Vec<String> = self.columns.iter().map(|c| cut(&c.header, c.limit)).collect();
        let fit = |row: &Vec<String>| row.iter().zip(&self.columns).map(|(cell, c)| cut(cell, c.limit)).collect();
        let rows: Vec<Vec<String>> = self.rows.iter().map(fit).collect();
        let lines = || std::iter::once(&headers).chain(&rows);
        let width = |i: usize| lines().map(|line| line[i].width()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let rule: Vec<String> = widths.iter().map(|w| "─".repeat(*w)).collect();
        let mut text = String::new();
        for line in [&headers, &rule].into_iter().chain(&rows) {
            text += self.line(line, &widths).trim_end();
            text.push('\n');
        }
        text
    }

    fn line(&self, cells: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for (i, ((cell, column), width)) in cells.iter().zip(&self.columns).zip(widths).enumerate() {
            if i > 0 {
                line += "  ";
            }
            let space = " ".repeat(width.saturating_sub(cell.width()));
            let (before, after) = if column.right { (space.as_str(), "") } else { ("", space.as_str()) };
            line.extend([before, cell, after]);
        }
        line
    }

    /// The table as HTML, where cells show the same text.
    pub fn to_html(&self) -> String {
        let line = |tag: &str, cells: Vec<&str>| {
            let cell = |(text, column): (&str, &Column)| {
                let align = if column.right { "right" } else { "left" };
                let text = escape(text).replace('\n', "<br>");
                format!("<{tag} style=\"text-align: {align}\">{text}</{tag}>")
            };
            let cells: String = cells.into_iter().zip(&self.columns).map(cell).collect();
            format!("<tr>{cells}</tr>\n")
        };
        let headers = line("th", self.columns.iter().map(|c| c.header.as_str()).collect());
        let rows: String = self.rows.iter().map(|row| line("td", row.iter().map(String::as_str).collect())).collect();
        format!("<table>\n<thead>{headers}</thead>\n<tbody>{rows}</tbody>\n</table>\n")
    }

    /// The table in GitHub's Markdown, where cells show the same text.
    pub fn to_markdown(&self) -> String {
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let headers = self.columns.iter().map(|c| markdown::escape(&c.header)).collect();
        let rule = self.columns.iter().map(|c| if c.right { "---:" } else { "---" }.to_string()).collect();
        let rows = self.rows.iter().map(|row| line(row.iter().map(|cell| markdown::escape(cell)).collect()));
        [line(headers), line(rule)].into_iter().chain(rows).collect()
    }
}

/// `cell` on one line, at most `limit` terminal columns wide.
fn cut(cell: &str, limit: usize) -> String {
    let plain = |c: char| match c {
        '\n' | '\r' | '\t' => ' ',
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    let cell: String = cell.trim().replace("\r\n", "\n").chars().map(plain).collect();
    if cell.width() <= limit {
        return cell;
    }
    let mut kept = String::new();
    let mut used = 0;
    for c in cell.chars() {
        used += c.width().unwrap_or(0);
        // One column is the ellipsis's. Marks that combine with a letter have no width and stay with it.
        if used >= limit {
            break;
        }
        kept.push(c);
    }
    kept.truncate(kept.trim_end().len());
    kept.push('…');
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligns_vietnamese_however_it_is_encoded() {
        let mut table = Table::new(["name", "n"]).right(1);
        table.row(["sữa chua", "1"]);
        // The same letters, each followed by its marks.
        table.row(["s\u{75}\u{31b}\u{303}a chua", "12"]);
        table.row(["bơ", "3"]);
        let expected = "name       n\n────────  ──\nsữa chua   1\ns\u{75}\u{31b}\u{303}a chua  12\nbơ         3\n";
        assert_eq!(table.to_text(), expected);
    }

    #[test]
    fn wide_letters_take_two_columns() {
        let mut table = Table::new(["a", "b"]);
        table.row(["茶", "x"]);
        table.row(["tea", "y"]);
        assert_eq!(table.to_text(), "a    b\n───  ─\n茶   x\ntea  y\n");
    }

    #[test]
    fn numbers_stand_to_the_right_of_their_name() {
        let mut table = Table::new(["", "a", "b"]).numeric();
        table.numbers("one", [1.0, 22.25], 1);
        assert_eq!(table.to_text(), "       a     b\n───  ───  ────\none  1.0  22.2\n");
    }

    #[test]
    fn cuts_by_width_and_keeps_marks_with_their_letter() {
        assert_eq!(cut("trà sữa", 7), "trà sữa");
        assert_eq!(cut("trà sữa", 6), "trà s…");
        assert_eq!(cut("trà sữa", 5), "trà…");
        assert_eq!(cut("tra\u{300} sua", 4), "tra\u{300}…");
        assert_eq!(cut("茶茶茶", 4), "茶…");
        assert_eq!(cut("ab", 1), "…");
        let mut table = Table::new(["answer"]).limit(0, 5);
        table.row(["123456"]);
        assert_eq!(table.to_text(), "answ…\n─────\n1234…\n");
    }

    #[test]
    fn a_cell_cannot_break_the_line_or_steer_the_terminal() {
        assert_eq!(cut("a\r\nb\tc\u{1b}[2J", 99), "a b c\u{fffd}[2J");
    }

    #[test]
    fn ragged_rows_are_squared() {
        let mut table = Table::new(["a", "b"]);
        assert!(table.is_empty());
        table.row(["1"]);
        table.row(["1", "2", "3"]);
        assert_eq!(table.to_markdown(), "| a | b |\n| --- | --- |\n| 1 |  |\n| 1 | 2 |\n");
        assert_eq!(table.to_text(), "a  b\n─  ─\n1\n1  2\n");
    }

    #[test]
    fn markdown_escapes_pipes_and_says_the_alignment() {
        let mut table = Table::new(["a|b", "n"]).right(1).limit(0, 2);
        table.row(["x | `y`\nz", "1"]);
        assert_eq!(table.to_markdown(), "| a\\|b | n |\n| --- | ---: |\n| x \\| \\`y\\`<br>z | 1 |\n");
    }
}
