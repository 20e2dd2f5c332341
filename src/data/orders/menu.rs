//! The menu, and orders drawn from it.

use super::dice::Dice;
use super::{Line, Order, Split, pair_held_out};

/// A drink's kind decides which wishes make sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Coffee,
    Tea,
    Juice,
}

/// A drink of the menu.
#[derive(Debug)]
pub struct Drink {
    /// As the menu, and the output, spell it.
    pub name: &'static str,
    pub kind: Kind,
    /// Other ways in which guests say it.
    pub also: &'static [&'static str],
}

const fn drink(name: &'static str, kind: Kind, also: &'static [&'static str]) -> Drink {
    Drink { name, kind, also }
}

/// The whole menu. Names are in Unicode's composed form (NFC).
pub const DRINKS: [Drink; 18] = [
    drink("cà phê đen", Kind::Coffee, &[]),
    drink("cà phê sữa", Kind::Coffee, &[]),
    drink("cà phê muối", Kind::Coffee, &[]),
    drink("bạc xỉu", Kind::Coffee, &["bạc sỉu"]),
    drink("latte", Kind::Coffee, &[]),
    drink("americano", Kind::Coffee, &[]),
    drink("cacao", Kind::Tea, &["ca cao"]),
    drink("matcha", Kind::Tea, &[]),
    drink("trà đào", Kind::Tea, &[]),
    drink("trà vải", Kind::Tea, &[]),
    drink("trà chanh", Kind::Tea, &[]),
    drink("trà tắc", Kind::Tea, &[]),
    drink("trà sữa", Kind::Tea, &[]),
    drink("trà sen", Kind::Tea, &[]),
    drink("sữa chua", Kind::Juice, &["yaourt"]),
    drink("nước cam", Kind::Juice, &["cam vắt"]),
    drink("sinh tố bơ", Kind::Juice, &[]),
    drink("sinh tố xoài", Kind::Juice, &[]),
];

/// The menu's entry for `name`.
pub(super) fn find(name: &str) -> Option<&'static Drink> {
    DRINKS.iter().find(|d| d.name == name)
}

/// An order that may occur in `split`: mostly one drink, sometimes two, seldom three.
pub(super) fn order(dice: &mut Dice, split: Split) -> Order {
    let count = dice.weighted(&[(82, 1), (16, 2), (2, 3)]);
    let mut names: Vec<&str> = DRINKS.iter().map(|d| d.name).collect();
    loop {
        dice.shuffle(&mut names);
        if pairs_fit(&names[..count], split) {
            break;
        }
    }
    // A line is drawn again until it fits; another drink instead would favour drinks with many fitting lines.
    let fitting = |name: &&str| loop {
        let line = line(dice, name, count);
        if line.held_out() == (split == Split::Test) {
            return line;
        }
    };
    let items = names[..count].iter().map(fitting).collect();
    Order { items, takeaway: dice.weighted(&[(56, None), (30, Some(true)), (14, Some(false))]) }
}

/// Training has no held-out pair in an order, the test none but held-out neighbours.
pub(super) fn pairs_fit(names: &[&str], split: Split) -> bool {
    match split {
        Split::Train => (1..names.len()).all(|j| (0..j).all(|i| !pair_held_out(names[i], names[j]))),
        Split::Test => names.windows(2).all(|pair| pair_held_out(pair[0], pair[1])),
    }
}

/// `name` with a number and wishes; guests who order much say less about each.
fn line(dice: &mut Dice, name: &str, count: usize) -> Line {
    let wish = |dice: &mut Dice, percent: usize, values: &[(usize, &'static str)]| {
        dice.chance(percent / count).then(|| dice.weighted(values).to_owned())
    };
    let quantity = dice.weighted(&[(50, 1), (25, 2), (13, 3), (7, 4), (5, 5)]);
    let size = wish(dice, 40, &[(1, "S"), (1, "M"), (1, "L")]);
    let mut ice = wish(dice, 42, &[(6, "less"), (6, "none"), (4, "more"), (1, "separate")]);
    let sugar = wish(dice, 30, &[(6, "less"), (6, "none"), (4, "more"), (1, "30%"), (1, "50%"), (1, "70%")]);
    let mut notes = Vec::new();
    if dice.chance(24 / count) {
        let note = match find(name).map(|d| d.kind) {
            Some(Kind::Coffee) => dice.pick(&["nóng", "nóng", "shot", "kem"]),
            Some(Kind::Tea) => dice.pick(&["trân châu", "trân châu", "thạch", "kem"]),
            _ => dice.pick(&["thạch", "kem"]),
        };
        if note == "nóng" {
            ice = None;
        }
        notes.push(note.to_owned());
        if note == "trân châu" && dice.chance(20) {
            notes.push("thạch".to_owned());
        }
    }
    Line { quantity, name: name.to_owned(), size, ice, sugar, notes }
}
