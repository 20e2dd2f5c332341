//! LaTeX to MathML, which browsers draw by themselves.

use pulldown_latex::config::DisplayMode;
use pulldown_latex::{Parser, RenderConfig, Storage, push_mathml};

/// A formula as one line of HTML that Markdown leaves as it is.
///
/// Errors: what the parser says.
pub fn mathml(latex: &str, display: bool) -> Result<String, String> {
    let storage = Storage::new();
    let parser = Parser::new(latex, &storage);
    let display_mode = if display { DisplayMode::Block } else { DisplayMode::Inline };
    let config = RenderConfig { display_mode, xml: true, ..RenderConfig::default() };
    let mut html = String::new();
    let mut errors = Vec::new();
    let events = parser.inspect(|event| {
        if let Err(e) = event {
            errors.push(e.to_string());
        }
    });
    push_mathml(&mut html, events, config).map_err(|e| e.to_string())?;
    match errors.into_iter().next() {
        Some(error) => Err(format!("the formula `{latex}`: {}", error.lines().next().unwrap_or_default())),
        None => Ok(for_markdown(&html)),
    }
}

/// Markdown would see emphasis, code and escapes in the text between tags.
fn for_markdown(html: &str) -> String {
    let mut out = String::with_capacity(html.len());
    let mut in_tag = false;
    for c in html.chars() {
        match c {
            '<' => in_tag = true,
            '>' => in_tag = false,
            _ => {}
        }
        match c {
            '*' | '_' | '\\' | '`' | '[' | ']' | '~' | '|' | '^' | '{' | '}' | '#' if !in_tag => {
                out += &format!("&#{};", u32::from(c));
            }
            '\n' => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formulas_of_the_course_are_understood() {
        let formulas = [
            r"\Delta W = \frac{\alpha}{r} B A",
            r"q_i = \frac{1}{2}\left(Q_X\left(\frac{i}{2^k+1}\right) + Q_X\left(\frac{i+1}{2^k+1}\right)\right)",
            r"\begin{aligned} a &= b \\ c &= d \end{aligned}",
            r"\text{số tham số} = r \cdot (d_{\text{in}} + d_{\text{out}})",
        ];
        for formula in formulas {
            let html = mathml(formula, true).unwrap();
            assert!(html.starts_with("<math") && html.ends_with("</math>") && !html.contains('\n'), "{html}");
        }
    }

    #[test]
    fn markdown_finds_nothing_in_a_formula() {
        let html = mathml("a_{ij} * b", false).unwrap();
        assert!(!html.contains('_') && !html.contains('*'), "{html}");
    }

    #[test]
    fn a_wrong_formula_is_an_error() {
        assert!(mathml(r"\frac{1", false).is_err());
    }
}
