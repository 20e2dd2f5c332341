//! What a sentence looks like once it was typed on a phone: as spoken, in chat shorthand, without accents, or both.

use super::dice::Dice;

/// Chat shorthand ("teencode"): the word, and what is typed for it.
const SHORTHAND: [(&str, &[&str]); 17] = [
    ("cà phê", &["cf", "cf", "cafe"]),
    ("trà sữa", &["ts"]),
    ("sinh tố", &["st"]),
    ("không", &["ko", "k", "hông"]),
    ("được", &["đc"]),
    ("mình", &["m", "mk"]),
    ("em", &["e"]),
    ("anh", &["a"]),
    ("chị", &["c"]),
    ("nhiều", &["nhìu"]),
    ("đường", &["đg"]),
    ("size", &["sz"]),
    ("cảm ơn", &["cám ơn", "tks"]),
    ("với", &["vs"]),
    ("rồi", &["r"]),
    ("giúp", &["jup"]),
    ("uống", &["ún"]),
];

/// Wears `sentence` down, in one of four ways.
pub(super) fn wear(sentence: &str, dice: &mut Dice) -> String {
    let (chat, bare) =
        dice.weighted(&[(91, (false, false)), (5, (true, false)), (3, (false, true)), (1, (true, true))]);
    let mut text = sentence.to_owned();
    if chat {
        text = shortened(&lower(&text), dice);
    }
    if bare {
        text = without_accents(&text);
        if dice.chance(60) {
            text = lower(&text);
        }
    }
    text
}

/// Starts small, as in chat; sizes keep their capitals.
fn lower(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

fn shortened(text: &str, dice: &mut Dice) -> String {
    let mut text = text.to_owned();
    for (word, short) in SHORTHAND {
        if dice.chance(70) {
            text = replace_word(&text, word, dice.pick(short));
        }
    }
    text
}

/// Replaces `word` where it stands alone, not inside another word.
fn replace_word(text: &str, word: &str, by: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(word) {
        let (before, after) = (&rest[..at], &rest[at + word.len()..]);
        let starts = before.chars().next_back().or(out.chars().next_back()).is_none_or(|c| !c.is_alphanumeric());
        let ends = after.chars().next().is_none_or(|c| !c.is_alphanumeric());
        out += before;
        out += if starts && ends { by } else { word };
        rest = after;
    }
    out + rest
}

/// Vietnamese in plain Latin letters: "trà đào ít đường" becomes "tra dao it duong".
pub fn without_accents(text: &str) -> String {
    text.chars().map(plain).collect()
}

fn plain(letter: char) -> char {
    const LETTERS: [(char, &str); 7] = [
        ('a', "àáảãạăằắẳẵặâầấẩẫậ"),
        ('e', "èéẻẽẹêềếểễệ"),
        ('i', "ìíỉĩị"),
        ('o', "òóỏõọôồốổỗộơờớởỡợ"),
        ('u', "ùúủũụưừứửữự"),
        ('y', "ỳýỷỹỵ"),
        ('d', "đ"),
    ];
    let lower = letter.to_lowercase().next().unwrap_or(letter);
    match LETTERS.iter().find(|(_, accented)| accented.contains(lower)) {
        Some((plain, _)) if lower == letter => *plain,
        Some((plain, _)) => plain.to_ascii_uppercase(),
        None => letter,
    }
}
