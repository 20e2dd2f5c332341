//! Both languages say the same: the same sections with the same cells, values, formulas, drawings, code and tables in the same
//! order; and no section of one changes without its twin.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::course::{read, write};
use crate::page::{Inline, Section, inline};
use crate::{Course, Error, Language, Page, Result};

/// Digests of sections that say the same, by page and section: English, Vietnamese.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
struct Twins(BTreeMap<String, BTreeMap<String, [String; 2]>>);

fn path(course: &Course) -> PathBuf {
    course.root().join("lessons/records/twins.json")
}

impl Twins {
    fn read(course: &Course) -> Result<Self> {
        let path = path(course);
        if !path.is_file() {
            return Ok(Self::default());
        }
        let wrong = |e: serde_json::Error| {
            Error::lesson(format!("`{}`", path.display()), e.to_string(), "Take it from the last commit.")
        };
        serde_json::from_str(&read(&path)?).map_err(wrong)
    }

    fn now(course: &Course) -> Result<Self> {
        let mut twins = Self::default();
        for name in course.pages(Language::English)? {
            let [english, vietnamese] = both(course, &name)?;
            let pairs = english.sections.iter().zip(&vietnamese.sections);
            let pairs = pairs.map(|(a, b)| (a.id.clone(), [a.digest(), b.digest()]));
            twins.0.insert(name, pairs.collect());
        }
        Ok(twins)
    }

    fn of(&self, page: &str, section: &str) -> Option<&[String; 2]> {
        self.0.get(page)?.get(section)
    }
}

fn both(course: &Course, name: &str) -> Result<[Page; 2]> {
    Ok([Page::read(course, Language::English, name)?, Page::read(course, Language::Vietnamese, name)?])
}

pub(super) fn check(course: &Course) -> Result<Vec<String>> {
    let [pages, twins] = Language::ALL.map(|language| course.pages(language));
    let (pages, twins) = (pages?, twins?);
    if pages != twins {
        return Ok(vec![format!(
            "`lessons/en/SUMMARY.md` lists {}, `lessons/vi/SUMMARY.md` {}. Both list the same pages in the same order.",
            pages.join(", "),
            twins.join(", ")
        )]);
    }
    let mut findings = all_shapes(course)?;
    if findings.is_empty() {
        let (old, now) = (Twins::read(course)?, Twins::now(course)?);
        findings.extend(alone(&old, &now, &[]));
        if findings.is_empty() && old != now {
            findings.push(
                "sections changed in both languages. Run `cargo course bless`, which notes that they belong together."
                    .into(),
            );
        }
    }
    Ok(findings)
}

/// Notes which sections say the same. Of the pages `synced` also those of which only one changed.
///
/// Errors: [`Error::Findings`] where one language changed alone.
pub fn bless(course: &Course, synced: &[String]) -> Result<bool> {
    let (old, now) = (Twins::read(course)?, Twins::now(course)?);
    let mut findings = all_shapes(course)?;
    findings.extend(alone(&old, &now, synced));
    if !findings.is_empty() {
        return Err(Error::Findings(findings));
    }
    let text = serde_json::to_string_pretty(&now).unwrap_or_default();
    write(&path(course), &(text + "\n"))
}

fn all_shapes(course: &Course) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for name in course.pages(Language::English)? {
        let [english, vietnamese] = both(course, &name)?;
        findings.extend(shapes(&english, &vietnamese));
    }
    Ok(findings)
}

/// Sections of which one language changed and the other did not, those of the pages `synced` left out.
fn alone(old: &Twins, now: &Twins, synced: &[String]) -> Vec<String> {
    let mut findings = Vec::new();
    for (page, sections) in now.0.iter().filter(|(page, _)| !synced.contains(page)) {
        for (id, [en, vi]) in sections {
            let Some([old_en, old_vi]) = old.of(page, id) else { continue };
            let (changed, twin) = match (en == old_en, vi == old_vi) {
                (false, true) => (Language::English, Language::Vietnamese),
                (true, false) => (Language::Vietnamese, Language::English),
                _ => continue,
            };
            findings.push(format!(
                "the section `{id}` of `lessons/{}/{page}.md` changed, and its twin in `lessons/{}/{page}.md` did not. \
                 Say the same there, and run `cargo course bless`; or, where the twin says it already, `cargo course synced {page}`.",
                changed.code(),
                twin.code()
            ));
        }
    }
    findings
}

/// What a section consists of, where both languages have to agree.
fn shape(section: &Section) -> Vec<String> {
    let mut shape = Vec::new();
    let mut fence: Option<String> = None;
    for line in section.body.lines() {
        let line = line.trim();
        match &mut fence {
            Some(opening) if line == "```" => {
                // Code is the same; words in formulas and in diagrams are not.
                shape.push(std::mem::take(opening));
                fence = None;
            }
            Some(opening) if opening.starts_with("```diagram") || opening.starts_with("```math") => {}
            Some(opening) => {
                opening.push('\n');
                opening.push_str(line);
            }
            None if line.starts_with("```") => fence = Some(line.into()),
            None if line.starts_with("{{#") && line.ends_with("}}") && !line.starts_with("{{#value") => {
                shape.push(line.into());
            }
            None if line.starts_with("> [!") => shape.push(line.into()),
            None if line.starts_with("| ---") || line.starts_with("|---") => shape.push("a table".into()),
            None if line.starts_with("<details") => shape.push("<details>".into()),
            None if line.starts_with("<div") => shape.push(line.into()),
            None => {}
        }
    }
    // Word order differs between languages: values and formulas are compared as a set.
    let values = inline(&section.body).into_iter().filter_map(|piece| match piece {
        Inline::Value(words) => Some(format!("{{{{#value {words}}}}}")),
        _ => None,
    });
    let mut values: Vec<String> = values.collect();
    values.sort();
    shape.extend(values);
    shape
}

fn shapes(english: &Page, vietnamese: &Page) -> Vec<String> {
    let mut findings = Vec::new();
    let ids =
        |page: &Page| page.sections.iter().map(|s| format!("{} {}", "#".repeat(s.level), s.id)).collect::<Vec<_>>();
    if ids(english) != ids(vietnamese) {
        let (a, b) = (ids(english), ids(vietnamese));
        let missing = |from: &[String], other: &[String]| {
            from.iter().filter(|id| !other.contains(id)).cloned().collect::<Vec<_>>().join(", ")
        };
        return vec![format!(
            "{} and {} have other sections: only English {}; only Vietnamese {}. Give every section its twin, in the same order.",
            english.place,
            vietnamese.place,
            missing(&a, &b),
            missing(&b, &a)
        )];
    }
    for (a, b) in english.sections.iter().zip(&vietnamese.sections) {
        let (left, right) = (shape(a), shape(b));
        if left != right {
            let at = left.iter().zip(&right).position(|(l, r)| l != r).unwrap_or(left.len().min(right.len()));
            let word = |shape: &[String]| shape.get(at).map_or("nothing", |word| word.as_str()).to_owned();
            findings.push(format!(
                "the section `{}` has `{}` in {}, line {}, and `{}` in {}, line {}. Both languages have the same cells, values, code and boxes in the same order.",
                a.id,
                word(&left),
                english.place,
                a.line,
                word(&right),
                vietnamese.place,
                b.line
            ));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(text: &str, language: Language) -> Page {
        Page::parse(text, language, format!("`{}.md`", language.code())).unwrap()
    }

    fn compare(english: &str, vietnamese: &str) -> Vec<String> {
        shapes(&page(english, Language::English), &page(vietnamese, Language::Vietnamese))
    }

    #[test]
    fn the_same_in_other_words_is_the_same() {
        let en = "# A {#a}\nx {{#value c; x}} y {{#value c; y}}\n\n{{#cell one}}\n";
        let vi = "# B {#a}\ny {{#value c; y}} x {{#value c; x}}\n\n{{#cell one}}\n";
        assert_eq!(compare(en, vi), Vec::<String>::new());
    }

    #[test]
    fn a_section_a_cell_or_a_value_that_is_missing_is_found() {
        let en = "# A {#a}\nx {{#value c; x}}\n\n{{#cell one}}\n## B {#b}\n";
        assert!(compare(en, "# A {#a}\n")[0].contains("only English ## b"));
        assert!(compare(en, "# A {#a}\nx {{#value c; x}}\n## B {#b}\n")[0].contains("`{{#cell one}}`"));
        assert!(compare(en, "# A {#a}\nx\n{{#cell one}}\n## B {#b}\n")[0].contains("{{#value c; x}}"));
    }

    #[test]
    fn a_change_of_one_language_alone_is_found() {
        let twins = |en: &str, vi: &str| Twins([("p".into(), [("s".into(), [en.into(), vi.into()])].into())].into());
        assert_eq!(alone(&twins("1", "1"), &twins("1", "1"), &[]).len(), 0);
        assert_eq!(alone(&twins("1", "1"), &twins("2", "2"), &[]).len(), 0);
        assert!(alone(&twins("1", "1"), &twins("2", "1"), &[])[0].contains("`lessons/en/p.md` changed"));
        assert!(alone(&twins("1", "1"), &twins("1", "2"), &[])[0].contains("`lessons/vi/p.md` changed"));
        assert_eq!(alone(&twins("1", "1"), &twins("1", "2"), &["q".into(), "p".into()]).len(), 0);
    }
}
