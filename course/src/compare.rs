//! Whether what a cell shows now is what its record says.

use crate::record::{CellRecord, Output};
use crate::source::Class;

/// The first difference that the cell's class does not allow, as a sentence.
pub fn difference(class: Class, record: &CellRecord, now: &CellRecord) -> Option<String> {
    if class.written {
        let kinds = |cell: &CellRecord| cell.outputs.iter().map(std::mem::discriminant).collect::<Vec<_>>();
        return (kinds(record) != kinds(now)).then(|| "it shows other kinds of things".into());
    }
    let (old, new) = (words(record), words(now));
    if old.len() != new.len() {
        return Some(format!("it shows {} things, the record has {}", new.len(), old.len()));
    }
    let mut differences = old.iter().zip(&new).filter_map(|(old, new)| text_difference(class, old, new));
    differences.next().or_else(|| pictures(class, record, now))
}

/// The texts of what is shown. Pictures are titles here.
fn words(cell: &CellRecord) -> Vec<String> {
    cell.outputs.iter().map(Output::text).collect()
}

/// Pictures are compared byte by byte where every number is exact.
fn pictures(class: Class, record: &CellRecord, now: &CellRecord) -> Option<String> {
    let pictures = |cell: &CellRecord| -> Vec<_> {
        cell.outputs.iter().filter_map(|output| output.content("image/svg+xml")).collect()
    };
    (class.is_exact() && pictures(record) != pictures(now)).then(|| "its picture is another one".into())
}

fn text_difference(class: Class, old: &str, new: &str) -> Option<String> {
    let (old_parts, new_parts) = (parts(old), parts(new));
    let same_shape = old_parts.len() == new_parts.len();
    // Bars and columns of spaces follow the numbers.
    let loose = !class.is_exact();
    for (old_part, new_part) in old_parts.iter().zip(&new_parts) {
        let same = match (old_part, new_part) {
            (Part::Text(a), Part::Text(b)) if loose => squeezed(a) == squeezed(b),
            (Part::Text(a), Part::Text(b)) => a == b,
            (Part::Number(..), Part::Number(..)) if class.timing => true,
            (Part::Number(a, _), Part::Number(b, _)) if loose => {
                let relative = class.tolerance.unwrap_or(0.0) * a.abs().max(b.abs());
                (a - b).abs() <= relative.max(class.within.unwrap_or(0.0))
            }
            (Part::Number(_, a), Part::Number(_, b)) => a == b,
            _ => false,
        };
        if !same {
            return Some(format!("it shows `{}` where the record has `{}`", new_part.shown(), old_part.shown()));
        }
    }
    (!same_shape).then(|| format!("it shows `{}` where the record has `{}`", new.trim(), old.trim()))
}

enum Part<'t> {
    Text(&'t str),
    Number(f64, &'t str),
}

impl Part<'_> {
    fn shown(&self) -> &str {
        match self {
            Self::Text(text) | Self::Number(_, text) => text.trim(),
        }
    }
}

/// Text and numbers in turn. A digit inside of a word, as in `nf4`, is text.
fn parts(text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut text_start = 0;
    let mut at = 0;
    while at < text.len() {
        match number_len(text, at) {
            Some((value, length)) => {
                if text_start < at {
                    parts.push(Part::Text(&text[text_start..at]));
                }
                parts.push(Part::Number(value, &text[at..at + length]));
                at += length;
                text_start = at;
            }
            None => at += text[at..].chars().next().map_or(1, char::len_utf8),
        }
    }
    if text_start < text.len() {
        parts.push(Part::Text(&text[text_start..]));
    }
    parts
}

/// The number that begins at byte `at`, and its length.
pub(crate) fn number_len(text: &str, at: usize) -> Option<(f64, usize)> {
    let before = text[..at].chars().next_back();
    if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '.') {
        return None;
    }
    let rest = &text.as_bytes()[at..];
    let sign = usize::from(rest.first() == Some(&b'-'));
    let digits = |from: usize| rest[from..].iter().take_while(|b| b.is_ascii_digit() || **b == b',').count();
    let whole = digits(sign);
    if whole == 0 || !rest[sign].is_ascii_digit() {
        return None;
    }
    let mut length = sign + whole;
    while rest[length - 1] == b',' {
        length -= 1;
    }
    if rest.get(length) == Some(&b'.') && rest.get(length + 1).is_some_and(u8::is_ascii_digit) {
        length += 1 + digits(length + 1);
    }
    if rest.get(length).is_some_and(|b| *b == b'e') {
        let sign = usize::from(rest.get(length + 1).is_some_and(|b| *b == b'-' || *b == b'+'));
        let power = rest.get(length + 1 + sign..).map_or(0, |r| r.iter().take_while(|b| b.is_ascii_digit()).count());
        if power > 0 {
            length += 1 + sign + power;
        }
    }
    let value = text[at..at + length].replace(',', "").parse().ok()?;
    Some((value, length))
}

fn squeezed(text: &str) -> String {
    let plain = text.replace(['─', '█', '▏', '▎', '▍', '▌', '▋', '▊', '▉', '░', '━', '╸', '-'], " ");
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn differs(class: Class, old: &str, new: &str) -> bool {
        text_difference(class, old, new).is_some()
    }

    #[test]
    fn exact_text_is_exact() {
        assert!(!differs(Class::default(), "a 1.5\n", "a 1.5\n"));
        assert!(differs(Class::default(), "a 1.5\n", "a 1.50\n"));
        assert!(differs(Class::default(), "a  1", "a 1"));
    }

    #[test]
    fn numbers_may_differ_by_the_tolerance_and_words_may_not() {
        let class = Class { tolerance: Some(0.1), ..Class::default() };
        assert!(!differs(class, "loss 1.00 nats", "loss 1.09 nats"));
        assert!(differs(class, "loss 1.00 nats", "loss 1.20 nats"));
        assert!(differs(class, "loss 1.00 nats", "loss 1.00 bits"));
        assert!(differs(class, "nf4 1", "nf5 1"));
        assert!(!differs(class, "1,000  x", "990 x"));
        assert!(differs(class, "-1e-3", "1e-3"));
        assert!(differs(class, "1", "1 2"));
    }

    #[test]
    fn counts_may_differ_by_a_few() {
        let class = Class { within: Some(3.0), ..Class::default() };
        assert!(!differs(class, "0 of 20", "2 of 20"));
        assert!(differs(class, "0 of 20", "4 of 20"));
    }

    #[test]
    fn times_may_be_anything() {
        let class = Class { timing: true, ..Class::default() };
        assert!(!differs(class, "took 1.2 s", "took 88 s"));
        assert!(differs(class, "took 1.2 s", "took 88 h"));
    }
}
