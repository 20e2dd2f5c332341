//! Tables of text.

/// Where a column's cells stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    Left,
    Right,
}

/// Rows under headings.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    ///
    /// ```
    /// use ferrotune::show::{Align, Table};
    ///
    /// let mut table = Table::new(&[("", Align::Left), ("n", Align::Right)]);
    /// table.row(["trà đào", "12"]);
    /// assert_eq!(table.text(), "          n\ntrà đào  12\n");
    /// ```
    pub fn new(columns: &[(&str, Align)]) -> Self {
        Self { columns: columns.iter().map(|(name, align)| ((*name).into(), *align)).collect(), rows: Vec::new() }
    }

    /// Adds a row; cells that are missing are empty, cells beyond the columns are left out.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        let mut cells: Vec<String> = cells.into_iter().map(Into::into).collect();
        cells.resize(self.columns.len(), String::new());
        self.rows.push(cells);
    }

    /// For a terminal: columns two spaces apart, a letter with its accents one wide (text is taken to be in NFC).
    pub fn text(&self) -> String {
        let widths = self.widths(|cell| cell.chars().count());
        let mut out = String::new();
        let headings: Vec<String> = self.columns.iter().map(|(name, _)| name.clone()).collect();
        for row in std::iter::once(&headings).chain(&self.rows) {
            let cells = row.iter().zip(&self.columns).zip(&widths);
            let padded: Vec<String> = cells
                .map(|((cell, (_, align)), width)| match align {
                    Align::Left => format!("{cell:<width$}"),
                    Align::Right => format!("{cell:>width$}"),
                })
                .collect();
            out.push_str(padded.join("  ").trim_end());
            out.push('\n');
        }
        out
    }

    /// For a Markdown page.
    pub fn markdown(&self) -> String {
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let mut out = line(self.columns.iter().map(|(name, _)| escaped(name)).collect());
        out += &line(
            self.columns
                .iter()
                .map(|(_, align)| if *align == Align::Right { "---:".into() } else { "---".into() })
                .collect(),
        );
        for row in &self.rows {
            out += &line(row.iter().map(|cell| escaped(cell)).collect());
        }
        out
    }

    fn widths(&self, width: impl Fn(&str) -> usize) -> Vec<usize> {
        let column = |i: usize| self.rows.iter().map(|row| width(&row[i])).chain([width(&self.columns[i].0)]).max();
        (0..self.columns.len()).map(|i| column(i).unwrap_or(0)).collect()
    }
}

/// A cell that ends neither its column nor its row.
fn escaped(cell: &str) -> String {
    cell.replace('|', "\\|").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markdown_cells_keep_their_column() {
        let mut table = Table::new(&[("a|b", Align::Left), ("n", Align::Right)]);
        table.row(["x\ny", "1"]);
        table.row(["only one"]);
        assert_eq!(table.markdown(), "| a\\|b | n |\n| --- | ---: |\n| x y | 1 |\n| only one |  |\n");
    }
}
