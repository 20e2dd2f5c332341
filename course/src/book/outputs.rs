//! What cells showed, as HTML among Markdown.

use super::Words;
use crate::record::{CellRecord, Output, Record};
use crate::source::Cell;

/// A cell and what it showed; `foreign` on a page whose language is not that of code and outputs, which is English.
pub(super) fn cell(cell: &Cell, shown: Option<&CellRecord>, record: &Record, words: &Words, foreign: bool) -> String {
    let lang = if foreign { " lang=\"en\"" } else { "" };
    let raises = if cell.class.raises { " raises" } else { "" };
    let mut html =
        format!("<div class=\"cell{raises}\" id=\"cell-{}\"{lang}>\n\n```rust\n{}\n```\n\n", cell.id, cell.code);
    let outputs = shown.map(|shown| &shown.outputs[..]).unwrap_or_default();
    if !outputs.is_empty() {
        html += "<div class=\"output\">\n\n";
        outputs.iter().for_each(|output| html += &one(output, words));
        html += "</div>\n";
    }
    html += "</div>\n";
    if !cell.class.is_exact() && !outputs.is_empty() {
        html += &format!("<p class=\"measured\">{}: {}, {}</p>\n", words.measured, record.machine, record.date);
    }
    html
}

fn one(output: &Output, words: &Words) -> String {
    if let Some(svg) = output.content("image/svg+xml") {
        return format!("<figure>{}</figure>\n\n", themed(&svg));
    }
    if let Some(html) = output.content("text/html") {
        // Scrolls by itself where it is wider than the page, and so has to be reached by the keyboard.
        let label = words.output;
        return format!(
            "<div class=\"table-wrapper\" tabindex=\"0\" role=\"region\" aria-label=\"{label}\">{}</div>\n\n",
            lines(&html)
        );
    }
    let kind = if matches!(output, Output::Error { .. }) { "error" } else { "stdout" };
    format!("<div class=\"{kind}\">\n\n```text\n{}\n```\n\n</div>\n\n", output.text().trim_end())
}

/// A drawing whose ink and grid follow the page's theme, without the paper below it.
fn themed(svg: &str) -> String {
    let svg = lines(svg);
    let paper = svg.split('\n').filter(|line| !(line.starts_with("<rect") && line.contains("fill=\"#FFFFFF\"")));
    let svg: Vec<&str> = paper.collect();
    let ink = svg.join("\n").replace("fill=\"#333333\"", "fill=\"currentColor\"");
    let ink = ink.replace("stroke=\"#333333\"", "stroke=\"currentColor\"");
    ink.replace("stroke=\"#E8E8E8\"", "class=\"grid\"")
}

/// Without empty lines, which would end the HTML for Markdown.
fn lines(html: &str) -> String {
    html.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
}
