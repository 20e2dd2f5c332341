//! Numbers in the prose that a cell showed come from the cell's record.

use std::collections::BTreeSet;

use crate::compare::number_len;
use crate::page::{Inline, inline};
use crate::record::Record;
use crate::{Course, Page, Part, Result};

pub(super) fn check(course: &Course, page: &Page, lesson: &str) -> Result<Vec<String>> {
    let record = Record::read(course, lesson)?;
    let cells = course.cells(lesson)?;
    let shown: String = cells
        .iter()
        .filter_map(|cell| record.cell(&cell.id))
        .flat_map(|cell| cell.outputs)
        .fold(String::new(), |text, output| text + &output.text() + "\n");
    // What the code says, the prose may say.
    let code: String = cells.iter().map(|cell| cell.code.replace('_', "") + "\n").collect();
    let (shown, said) = (telling(&shown), numbers(&code));
    let mut findings = Vec::new();
    for part in &page.parts {
        let Part::Markdown(text) = part else { continue };
        for piece in inline(text) {
            let Inline::Text(words) = piece else { continue };
            for number in numbers(words).intersection(&shown).filter(|number| !said.contains(*number)) {
                findings.push(format!(
                    "{} has the number {number}, which a cell showed. Write `{{{{#value cell; label}}}}`, so that it stays what the cell shows.",
                    page.place
                ));
            }
        }
    }
    Ok(findings)
}

/// The numbers that nobody writes by chance: with a fraction of two digits or four digits in all.
fn telling(text: &str) -> BTreeSet<String> {
    let tells = |number: &String| {
        let fraction = number.split_once('.').map_or(0, |(_, fraction)| fraction.len());
        fraction >= 2 || number.bytes().filter(u8::is_ascii_digit).count() >= 4
    };
    numbers(text).into_iter().filter(tells).collect()
}

fn numbers(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut at = 0;
    while at < text.len() {
        match number_len(text, at) {
            Some((_, length)) => {
                found.insert(text[at..at + length].trim_start_matches('-').replace(',', ""));
                at += length;
            }
            None => at += text[at..].chars().next().map_or(1, char::len_utf8),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn telling_numbers_are_those_with_enough_digits() {
        let found = telling("4 levels, 4.127 bits, 65,536 values, 0.5, 1e-3, nf4x1234");
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["4.127", "65536"]);
    }
}
