//! Plain text in places that give some characters a meaning: Markdown, fenced code, YAML.

/// `text` as Markdown that renders as `text` on one line, in a table's cell too.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut before = ' ';
    let mut rest = text.trim().chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\\' | '|' | '`' | '*' | '<' | '>' | '[' | ']' | '&' | '~' | '$' | '#' => out.extend(['\\', c]),
            // Between letters or digits an underscore is only ever itself, and `learning_rate` stays readable.
            '_' if !(before.is_alphanumeric() && rest.peek().is_some_and(|n| n.is_alphanumeric())) => out += "\\_",
            '\r' if rest.peek() == Some(&'\n') => {}
            '\n' | '\r' => out += "<br>",
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
        before = c;
    }
    out
}

/// `text` as a block of code that nothing in it can end.
pub(super) fn fenced(language: &str, text: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat((longest + 1).max(3));
    format!("{fence}{language}\n{}\n{fence}\n", text.trim_end_matches('\n'))
}

/// `text` as a YAML scalar: plain where YAML 1.1 and 1.2 both read a plain one as this very string, else quoted.
pub(super) fn yaml(text: &str) -> String {
    const WORDS: [&str; 10] = ["true", "false", "yes", "no", "on", "off", "y", "n", "null", "none"];
    let is_plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        // A colon is fine inside `base_model:adapter:org/name`, but not before a space or at the end.
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:+".contains(c))
        && !text.ends_with(':')
        && !WORDS.contains(&text.to_ascii_lowercase().as_str());
    if is_plain {
        return text.into();
    }
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out += "\\n",
            '\t' => out += "\\t",
            // What YAML calls not printable, or takes for a line's end.
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                out += &format!("\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markdown_shows_the_text_itself() {
        assert_eq!(escape("a|b"), "a\\|b");
        assert_eq!(escape("learning_rate __x__"), "learning_rate \\_\\_x\\_\\_");
        assert_eq!(escape("<img> *b* `c` [d](e) &lt;"), "\\<img\\> \\*b\\* \\`c\\` \\[d\\](e) \\&lt;");
        assert_eq!(escape("one\r\ntwo\u{1b}[0m"), "one<br>two \\[0m");
    }

    #[test]
    fn a_fence_is_longer_than_any_in_the_text() {
        assert_eq!(fenced("text", "a\n"), "```text\na\n```\n");
        assert_eq!(fenced("", "a ```` b"), "`````\na ```` b\n`````\n");
    }

    #[test]
    fn yaml_quotes_what_it_would_misread() {
        for plain in ["vi", "apache-2.0", "HuggingFaceTB/SmolLM2-135M-Instruct", "base_model:adapter:a/b", "llama3.2"] {
            assert_eq!(yaml(plain), plain);
        }
        assert_eq!(yaml("no"), "\"no\"");
        assert_eq!(yaml("1e3"), "\"1e3\"");
        assert_eq!(yaml("a: b"), "\"a: b\"");
        assert_eq!(yaml("a:"), "\"a:\"");
        assert_eq!(yaml(""), "\"\"");
        assert_eq!(yaml("- \"x\" \\ #\n\u{7f}"), "\"- \\\"x\\\" \\\\ #\\n\\u007f\"");
    }
}
