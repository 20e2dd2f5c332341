//! The spelling and the terms of the Vietnamese pages.

use unicode_normalization::is_nfc;

use crate::page::{Inline, inline};
use crate::{Page, Part};

/// Spellings that are not ours, and ours.
const SPELLINGS: [(&str, &str); 12] = [
    ("hoá", "hóa"),
    ("Hoá", "Hóa"),
    ("toả", "tỏa"),
    ("thuý", "thúy"),
    ("đào tạo", "huấn luyện"),
    ("Đào tạo", "Huấn luyện"),
    ("ma trận thứ hạng", "hạng của ma trận"),
    ("lượng tử hóa đôi", "lượng tử hóa kép"),
    ("tinh chỉnh tốt", "tinh chỉnh"),
    ("bộ điều hợp", "adapter"),
    ("tỷ lệ học", "tốc độ học"),
    ("các bạn", "bạn"),
];

/// Terms that the first use on a page explains by the English one in brackets.
const TERMS: [(&str, &str); 24] = [
    ("tinh chỉnh", "fine-tuning"),
    ("lượng tử hóa kép", "double quantization"),
    ("lượng tử hóa", "quantization"),
    ("giải lượng tử", "dequantize"),
    ("hạng thấp", "low-rank"),
    ("phân rã hạng thấp", "low-rank decomposition"),
    ("đóng băng", "freeze"),
    ("siêu tham số", "hyperparameter"),
    ("tốc độ học", "learning rate"),
    ("bộ tối ưu", "optimizer"),
    ("lan truyền ngược", "backpropagation"),
    ("quá khớp", "overfitting"),
    ("trị tuyệt đối lớn nhất", "absmax"),
    ("hệ số thang", "scale"),
    ("suy luận", "inference"),
    ("độ trễ", "latency"),
    ("thông lượng", "throughput"),
    ("đóng gói", "packing"),
    ("trọng số", "weight"),
    ("tham số", "parameter"),
    ("mất mát", "loss"),
    ("tầng", "layer"),
    ("khối", "block"),
    ("phân vị", "quantile"),
];

pub(super) fn check(page: &Page) -> Vec<String> {
    let mut findings = Vec::new();
    let mut find = |what: String| findings.push(format!("{}: {what}", page.place));
    for section in &page.sections {
        let text = format!("{}\n{}", section.title, section.body);
        if !is_nfc(&text) {
            find(format!("the section `{}` is not in NFC. Save it with composed letters.", section.id));
        }
        for (wrong, right) in SPELLINGS {
            if text.contains(wrong) {
                find(format!("the section `{}` has `{wrong}`. Write `{right}`.", section.id));
            }
        }
    }
    let prose = prose(page);
    for (term, english) in TERMS {
        if let Some(at) = first_use(&prose, term) {
            let rest = &prose[at + term.len()..];
            if !rest.starts_with(&format!(" ({english}")) {
                let words: String = prose[at..].chars().take(40).collect();
                find(format!(
                    "`{term}` is used without the English term at `{}`. At its first use on a page write `{term} ({english})`.",
                    words.replace('\n', " ")
                ));
            }
        }
    }
    findings
}

/// The running text in lower case: no headings, no code, no formulas, no emphasis.
fn prose(page: &Page) -> String {
    let mut prose = String::new();
    for part in &page.parts {
        let Part::Markdown(text) = part else { continue };
        let lines = text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n");
        for piece in inline(&lines) {
            if let Inline::Text(words) = piece {
                prose += &words.to_lowercase();
            }
        }
    }
    // A term may be broken over two lines.
    prose.replace(['*', '"'], "").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Where a term is used by itself, not inside of a longer one.
fn first_use(prose: &str, term: &str) -> Option<usize> {
    let longer = |at: usize| {
        TERMS.iter().any(|(other, _)| {
            other.len() > term.len()
                && other.match_indices(term).any(|(offset, _)| {
                    at.checked_sub(offset)
                        .and_then(|start| prose.get(start..))
                        .is_some_and(|rest| rest.starts_with(other))
                })
        })
    };
    let bounded = |at: usize| {
        let before = prose[..at].chars().next_back();
        let after = prose[at + term.len()..].chars().next();
        !before.is_some_and(char::is_alphabetic) && !after.is_some_and(char::is_alphabetic)
    };
    prose.match_indices(term).map(|(at, _)| at).find(|at| bounded(*at) && !longer(*at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Language;

    fn findings(body: &str) -> Vec<String> {
        let page = Page::parse(&format!("# T {{#t}}\n{body}\n"), Language::Vietnamese, "`vi.md`".into()).unwrap();
        check(&page)
    }

    #[test]
    fn spelling_and_composition_are_one() {
        assert_eq!(findings("Chúng ta bắt đầu."), Vec::<String>::new());
        assert!(findings("số hoá")[0].contains("Write `hóa`"));
        assert!(findings("a\u{301}")[0].contains("NFC"));
    }

    #[test]
    fn a_term_is_explained_at_its_first_use() {
        assert_eq!(findings("Lượng tử hóa\n(quantization) là gì? Lượng tử hóa là…"), Vec::<String>::new());
        assert!(findings("Lượng tử hóa là gì?")[0].contains("lượng tử hóa (quantization)"));
        // The longer term is not the shorter one.
        assert_eq!(findings("lượng tử hóa kép (double quantization)"), Vec::<String>::new());
        assert_eq!(findings("`trọng số` trong mã"), Vec::<String>::new());
    }
}
