//! From an order to a spoken sentence: opener, drinks with their wishes, eat-in or takeaway, closer.
//!
//! What varies is a table per split. The two tables of openers, joining words, corrections, takeaway phrases and closers
//! share no entry but the empty one; the words of the wishes ("ít đá", "size lớn") are the same in both. Training has more
//! corrections than the test, because they are rare and hard to learn. A test sentence always starts with an opener, so
//! it never has a frame of the training split.

use super::dice::Dice;
use super::menu::{self, DRINKS};
use super::{Line, Order, Split};

/// Who speaks to whom: Vietnamese has no plain "I" and "you", the pair depends on the two ages.
#[derive(Clone, Copy)]
struct Speakers {
    me: &'static str,
    you: &'static str,
    /// The younger speaks: "ạ" is due.
    polite: bool,
}

const SPEAKERS: [Speakers; 7] = [
    Speakers { me: "mình", you: "bạn", polite: false },
    Speakers { me: "mình", you: "quán", polite: false },
    Speakers { me: "em", you: "chị", polite: true },
    Speakers { me: "em", you: "anh", polite: true },
    Speakers { me: "anh", you: "em", polite: false },
    Speakers { me: "chị", you: "em", polite: false },
    Speakers { me: "con", you: "cô", polite: true },
];

/// What one split says; `{m}` stands for the speaker, `{y}` for who is spoken to.
struct Phrases {
    /// Who is called on; may be empty.
    calls: &'static [&'static str],
    /// How the wish starts.
    requests: &'static [&'static str],
    joints: &'static [&'static str],
    /// Between what was said first and what is meant.
    corrections: &'static [&'static str],
    takeaway: &'static [&'static str],
    /// Takeaway, said before the drinks.
    takeaway_first: &'static [&'static str],
    eat_in: &'static [&'static str],
    closers: &'static [&'static str],
    /// How often in a hundred drinks a guest corrects the number, the name and the size.
    slips: [usize; 3],
}

#[rustfmt::skip]
const TRAIN: Phrases = Phrases {
    calls: &["", "", "{y} ơi "],
    requests: &[
        "cho {m}", "cho {m}", "lấy {m}", "lấy cho {m}", "làm cho {m}", "bán cho {m}", "pha giúp {m}", "{m} gọi", "{m} lấy",
        "{m} uống", "{m} muốn uống", "cho tụi {m}", "cho {m} order", "cho xin", "",
    ],
    joints: &[", ", ", ", " và ", " với ", ", với ", ", cùng ", " với cả ", ", xong rồi "],
    corrections: &["à không", "à nhầm", "ý lộn", "à thôi", "ủa lộn"],
    takeaway: &["mang về", "mang về", "mang đi", "mang đi", "mua về", "đem về", "lấy đi", "gói mang về", "cho mang đi"],
    takeaway_first: &["mang về", "mang đi", "đem về"],
    eat_in: &[
        "uống tại quán", "uống ở đây", "ngồi lại quán", "ngồi ở quán", "uống tại chỗ", "dùng ở quán", "ngồi đây uống",
        "dùng tại đây",
    ],
    closers: &[
        "", "", "", " nha", " nhé", " nha {y}", " ạ", " với ạ", " với nhé", " giúp {m} nha", ", cảm ơn", ", cảm ơn {y}",
        ", {m} cảm ơn", " được không {y}",
    ],
    slips: [4, 3, 2],
};

#[rustfmt::skip]
const TEST: Phrases = Phrases {
    calls: &["", "", "alo {y} ơi ", "{y} ơi, "],
    requests: &[
        "cho {m} gọi", "cho {m} lấy", "cho {m} xin", "lấy giúp {m}", "{y} lấy {m}", "{y} làm giúp {m}", "{y} pha cho {m}",
        "bán giúp {m}", "{m} order", "{m} xin", "{m} muốn gọi", "{m} muốn order", "tụi {m} gọi", "tụi {m} muốn uống",
    ],
    joints: &[", rồi ", ", với lại ", ", và "],
    corrections: &["à mà không", "ý nhầm", "à lộn", "thôi", "ủa nhầm"],
    takeaway: &["mua mang về", "lấy mang đi", "lấy mang về", "mua mang đi"],
    takeaway_first: &["để mang về", "để mang đi"],
    eat_in: &["uống ở quán", "uống tại đây", "ngồi uống ở đây"],
    closers: &[
        "", "", " giúp {m} nha {y}", " giúp {m} với ạ", " nha, {m} cảm ơn", " nhé, cảm ơn {y}", ", cảm ơn {y} nha",
        ", {m} cảm ơn ạ", " nhé {y}", " với nha {y}", " được không ạ",
    ],
    slips: [2, 1, 1],
};

/// A sentence, and the same with `{}` for each drink and its wishes.
pub(super) struct Sentence {
    pub(super) text: String,
    pub(super) frame: String,
}

/// Says `order` in the phrases of `split`.
pub(super) fn say(order: &Order, dice: &mut Dice, split: Split) -> Sentence {
    let phrases = if split == Split::Train { &TRAIN } else { &TEST };
    let speakers = dice.pick(&SPEAKERS);
    let call = dice.pick(phrases.calls);
    let request = pick_where(dice, phrases.requests, |r| call.is_empty() || !r.starts_with("{y}"));
    let mut opener = format!("{call}{request}");
    if !opener.is_empty() && !opener.ends_with(' ') {
        opener.push(' ');
    }
    let mut ending = String::new();
    match order.takeaway {
        Some(true) if dice.chance(15) => opener = format!("{opener}{} ", dice.pick(phrases.takeaway_first)),
        Some(true) => ending = format!("{}{}", dice.pick(&[" ", ", "]), dice.pick(phrases.takeaway)),
        Some(false) => ending = format!("{}{}", dice.pick(&[" ", ", "]), dice.pick(phrases.eat_in)),
        None => {}
    }
    let closer = pick_where(dice, phrases.closers, |c| {
        let too_polite = c.contains('ạ') && !speakers.polite;
        let repeats = opener.contains("giúp") && c.contains("giúp");
        !(too_polite || repeats)
    });
    ending.push_str(closer);
    ending.push_str(dice.pick(&["", "."]));
    let spoken = |text: String| text.replace("{m}", speakers.me).replace("{y}", speakers.you);
    let (opener, ending) = (spoken(opener), spoken(ending));

    let (mut text, mut frame) = (opener.clone(), opener);
    for (i, item) in order.items.iter().enumerate() {
        let joint = if i == 0 { "" } else { dice.pick(phrases.joints) };
        let said = line(item, order, dice, phrases);
        text += joint;
        text += &said.text;
        frame += joint;
        frame += &said.frame;
    }
    Sentence { text: capitalised(&(text + &ending)), frame: capitalised(&(frame + &ending)) }
}

/// What the guest corrects about a drink.
#[derive(Clone, Copy, PartialEq)]
enum Slip {
    Nothing,
    Number,
    Name,
    Size,
}

/// One drink with its number and wishes. A correction is part of the frame.
fn line(line: &Line, order: &Order, dice: &mut Dice, phrases: &Phrases) -> Sentence {
    let marker = dice.pick(phrases.corrections);
    let [of_number, of_name, of_size] = phrases.slips;
    let right = 100 - of_number - of_name - of_size;
    let mut slip = dice.weighted(&[
        (right, Slip::Nothing),
        (of_number, Slip::Number),
        (of_name, Slip::Name),
        (of_size, Slip::Size),
    ]);
    if slip == Slip::Size && line.size.is_none() {
        slip = Slip::Nothing;
    }
    let mut number = number(line.quantity, slip == Slip::Number, dice);
    if slip == Slip::Number {
        let wrong = other(dice, &[1, 2, 3, 4, 5], line.quantity);
        number = format!("{}, {marker}, {number}", self::number(wrong, true, dice));
    }
    let mut name = name(&line.name, dice);
    if line.ice.is_none() && name.starts_with("cà phê") && !hot(line) && dice.chance(30) {
        name += " đá";
    }
    if slip == Slip::Name {
        let ordered = |d: &str| order.items.iter().any(|l| l.name == d);
        let others: Vec<&str> = DRINKS.iter().map(|d| d.name).filter(|d| !ordered(d)).collect();
        name = format!("{}, {marker}, {name}", dice.pick(&others));
    }
    let wishes = wishes(line, slip, marker, dice);
    let counted = number.contains(' ');
    // Not where a correction stands between the two.
    let number_behind = dice.below(100) < 3 && counted && !matches!(slip, Slip::Number | Slip::Name);
    let text = if number_behind { format!("{name} {number}{wishes}") } else { format!("{number} {name}{wishes}") };
    // "2 ly" and "ly lớn" meet as "2 ly lớn".
    let text = text.replace("ly ly ", "ly ").replace("cốc ly ", "cốc ");
    let frame = if slip == Slip::Nothing { "{}".into() } else { format!("{{}}, {marker}, {{}}") };
    Sentence { text: text.trim().into(), frame }
}

fn hot(line: &Line) -> bool {
    line.notes.iter().any(|note| note == "nóng")
}

/// "2", "hai ly", "1 cốc", and for one often "ly" or nothing (unless it `must` be said).
fn number(quantity: u32, must: bool, dice: &mut Dice) -> String {
    let counter = dice.weighted(&[(4, ""), (4, " ly"), (2, " cốc")]);
    if quantity == 1 && !must && dice.chance(15) {
        return counter.trim_start().to_owned();
    }
    let word = ["không", "một", "hai", "ba", "bốn", "năm"].get(quantity as usize).filter(|_| dice.chance(12));
    match word {
        Some(word) => format!("{word}{counter}"),
        None => format!("{quantity}{counter}"),
    }
}

fn name(name: &str, dice: &mut Dice) -> String {
    match menu::find(name).map(|d| d.also) {
        Some(also) if !also.is_empty() && dice.chance(30) => dice.pick(also).to_owned(),
        _ => name.to_owned(),
    }
}

/// The wishes of a line, each after a space or a comma, mostly in the output's order.
fn wishes(line: &Line, slip: Slip, marker: &str, dice: &mut Dice) -> String {
    let mut said = Vec::new();
    if let Some(value) = &line.size {
        let right = size(value, dice);
        said.push(if slip == Slip::Size {
            format!("{}, {marker}, {right}", size(other(dice, &["S", "M", "L"], value), dice))
        } else {
            right
        });
    }
    if let Some(value) = &line.ice {
        said.push(ice(value, dice).to_owned());
    }
    if let Some(value) = &line.sugar {
        said.push(sugar(value, dice));
    }
    let notes = line.notes.iter().enumerate();
    said.extend(notes.map(|(i, note)| match note.as_str() {
        "nóng" => dice.pick(&["nóng", "uống nóng"]).to_owned(),
        _ if i > 0 => format!("và {note}"),
        _ => format!("{}{note}", dice.pick(&["thêm ", "thêm ", "có "])),
    }));
    let mut text = String::new();
    for (i, wish) in said.iter().enumerate() {
        let joined = if i == 0 || wish.starts_with("và ") || dice.chance(70) { " " } else { ", " };
        text += joined;
        text += wish;
    }
    text
}

fn size(value: &str, dice: &mut Dice) -> String {
    let word = match value {
        "S" => "nhỏ",
        "M" => "vừa",
        _ => "lớn",
    };
    match dice.below(4) {
        0 => format!("size {value}"),
        _ => format!("size {word}"),
    }
}

fn ice(value: &str, dice: &mut Dice) -> &'static str {
    match value {
        "none" => "không đá",
        "less" => dice.pick(&["ít đá", "ít đá", "bớt đá"]),
        "more" => "nhiều đá",
        _ => dice.pick(&["đá riêng", "để đá riêng"]),
    }
}

fn sugar(value: &str, dice: &mut Dice) -> String {
    match value {
        "none" => "không đường".into(),
        "less" => dice.pick(&["ít đường", "ít đường", "bớt đường", "ít ngọt"]).into(),
        "more" => "nhiều đường".into(),
        percent if dice.chance(50) => format!("{percent} đường"),
        percent => format!("đường {percent}"),
    }
}

/// One of `values` that is not `right`.
fn other<T: Copy + PartialEq<U>, U: Copy>(dice: &mut Dice, values: &[T], right: U) -> T {
    pick_where(dice, values, |value| *value != right)
}

/// One of `values` that is `good`; at least one must be.
fn pick_where<T: Copy>(dice: &mut Dice, values: &[T], good: impl Fn(&T) -> bool) -> T {
    loop {
        let value = dice.pick(values);
        if good(&value) {
            return value;
        }
    }
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}
