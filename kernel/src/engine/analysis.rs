//! What can be said of code without running it. Positions are counted in characters, as Jupyter does.

use evcxr::CommandContext;

/// Whether a cell can be run as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IsComplete {
    Complete,
    /// More lines are to come, of which the first is indented by this.
    Incomplete {
        indent: String,
    },
    Invalid,
}

/// What could stand in place of the characters from `start` to `end`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Completions {
    pub matches: Vec<String>,
    /// What each match is: `function`, `class`, `module`, …
    pub kinds: Vec<&'static str>,
    pub start: usize,
    pub end: usize,
}

/// The byte at which character `position` starts.
fn byte_of(code: &str, position: usize) -> usize {
    code.char_indices().nth(position).map_or(code.len(), |(at, _)| at)
}

fn characters_to(code: &str, byte: usize) -> usize {
    code.char_indices().take_while(|(at, _)| *at < byte).count()
}

pub(super) fn complete(context: &mut CommandContext, code: &str, cursor: usize) -> Completions {
    let Ok(found) = context.completions(code, byte_of(code, cursor)) else {
        return Completions { start: cursor, end: cursor, ..Completions::default() };
    };
    let (matches, kinds) = found.completions.iter().map(|c| (c.code.clone(), c.kind)).unzip();
    let (start, end) = (characters_to(code, found.start_offset), characters_to(code, found.end_offset));
    Completions { matches, kinds, start, end }
}

/// The documentation of what is at the cursor: plain text and HTML.
pub(super) fn inspect(context: &mut CommandContext, code: &str, cursor: usize) -> Option<(String, String)> {
    // evcxr looks at the end of what it is given, so the word at the cursor has to be whole.
    let rest = &code[byte_of(code, cursor)..];
    let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    let (plain, html) = context.hover_at(code, byte_of(code, cursor) + word).ok()?;
    (!plain.trim().is_empty()).then_some((plain, html))
}

/// Looks at brackets, strings and comments alone, so that it answers at once.
pub fn is_complete(code: &str) -> IsComplete {
    let mut open = Vec::new();
    let mut rest = code.char_indices().peekable();
    let indent = |depth: usize| IsComplete::Incomplete { indent: "    ".repeat(depth) };
    while let Some((at, c)) = rest.next() {
        let here = &code[at..];
        match c {
            '(' | '[' | '{' => open.push(c),
            ')' | ']' | '}' => {
                let pair = match c {
                    ')' => '(',
                    ']' => '[',
                    _ => '{',
                };
                if open.pop() != Some(pair) {
                    return IsComplete::Invalid;
                }
            }
            _ => match skip(here) {
                Skip::To(n) => while rest.next_if(|(i, _)| *i < at + n).is_some() {},
                Skip::Open => return indent(0),
                Skip::Nothing => {}
            },
        }
    }
    if open.is_empty() { IsComplete::Complete } else { indent(open.len()) }
}

/// What begins here, if its content is no code.
enum Skip {
    Nothing,
    /// So many bytes.
    To(usize),
    /// It does not end.
    Open,
}

fn skip(here: &str) -> Skip {
    let to = |end: Option<usize>| end.map_or(Skip::Open, Skip::To);
    if let Some(comment) = here.strip_prefix("//") {
        return Skip::To(2 + comment.find('\n').unwrap_or(comment.len()));
    }
    if here.starts_with("/*") {
        return to(block_comment(here));
    }
    if let Some(string) = here.strip_prefix('"') {
        return to(quoted(string, '"').map(|n| n + 1));
    }
    if let Some(raw) = here.strip_prefix('r') {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if let Some(text) = raw[hashes..].strip_prefix('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            return to(text.find(&end).map(|n| 1 + hashes + 1 + n + end.len()));
        }
    }
    if let Some(rest) = here.strip_prefix('\'') {
        // A character, or else a lifetime.
        let mut characters = rest.chars();
        return match (characters.next(), characters.next()) {
            (Some('\\'), _) => quoted(rest, '\'').map_or(Skip::Nothing, |n| Skip::To(n + 1)),
            (Some(c), Some('\'')) => Skip::To(1 + c.len_utf8() + 1),
            _ => Skip::Nothing,
        };
    }
    // A word whole, so that the `r` at its end does not begin a raw string.
    let word = here.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(here.len());
    if word > 1 { Skip::To(word) } else { Skip::Nothing }
}

/// The length up to and with the closing quote.
fn quoted(text: &str, quote: char) -> Option<usize> {
    let mut characters = text.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '\\' => drop(characters.next()),
            c if c == quote => return Some(at + 1),
            _ => {}
        }
    }
    None
}

fn block_comment(text: &str) -> Option<usize> {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        let rest = &text[at..];
        let step = if rest.starts_with("/*") {
            depth += 1;
            2
        } else if rest.starts_with("*/") {
            depth -= 1;
            2
        } else {
            rest.chars().next().map_or(1, char::len_utf8)
        };
        at += step;
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_strings_and_comments_decide() {
        let incomplete = |indent: &str| IsComplete::Incomplete { indent: indent.into() };
        for code in
            ["", "1 + 1", "let s = \"(\";", "let c = '(';", "// (", "/* ( /* */ */ 1", "fn f<'a>(x: &'a str) {}"]
        {
            assert_eq!(is_complete(code), IsComplete::Complete, "{code}");
        }
        for code in ["r#\"a\"(\"#", "let car = \"x\";", "let c = '\\'';", "\"\\\"\"", "let q = '\"';", "let r = 1;"] {
            assert_eq!(is_complete(code), IsComplete::Complete, "{code}");
        }
        assert_eq!(is_complete("fn f() {"), incomplete("    "));
        assert_eq!(is_complete("f(g(["), incomplete("            "));
        assert_eq!(is_complete("let s = \"abc"), incomplete(""));
        assert_eq!(is_complete("/* a"), incomplete(""));
        assert_eq!(is_complete("r#\"a\""), incomplete(""));
        assert_eq!(is_complete("f(])"), IsComplete::Invalid);
        assert_eq!(is_complete("}"), IsComplete::Invalid);
    }

    #[test]
    fn positions_are_characters() {
        assert_eq!(byte_of("đá.x", 2), 4);
        assert_eq!(byte_of("đá", 9), 4);
        assert_eq!(characters_to("đá.x", 4), 2);
    }
}
