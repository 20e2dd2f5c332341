//! One task that every approach can be tried on: a guest's order as JSON, with the price of each drink.
//!
//! It asks for a form that the model does not know (the house's JSON), and for facts that change (prices; what is sold out).

use std::collections::BTreeSet;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use serde_json::Value;

use super::menu::{Menu, Retriever, Row};
use crate::data::orders::{self, Line, Order, Split};
use crate::data::{Message, Record};
use crate::{Error, Result};

/// What a model that was trained on the task is told: "write the order as JSON, with prices".
pub const INSTRUCTION: &str = "Ghi đơn thành JSON, kèm giá.";

/// What a model that was not trained is told: the house's form, in words.
pub const PROMPT: &str = "Bạn ghi đơn cho quán cà phê. Chỉ trả lời bằng một dòng JSON không có dấu cách: \
    {\"items\":[{\"quantity\":số ly,\"name\":\"tên món\",\"size\":\"S|M|L\",\"ice\":\"none|less|more|separate\",\
    \"sugar\":\"none|less|more|30%|50%|70%\",\"notes\":[\"ghi chú\"],\"price\":giá một ly}],\"takeaway\":true|false}. \
    Điều khách không nói thì bỏ khóa ấy. Món đã hết thì \"price\":null.";

/// Rows that are looked up for an order.
pub const FOUND: usize = 5;

/// An order: what the guest says, and what it is.
#[derive(Clone, Debug)]
pub struct Case {
    pub said: String,
    pub order: Order,
}

/// `n` orders of a split, as `datasets/orders` makes them.
pub fn cases(split: Split, n: usize) -> Vec<Case> {
    let samples = orders::samples(orders::SEED, split, n);
    samples.into_iter().map(|sample| Case { said: sample.record.input, order: sample.order }).collect()
}

/// Whether `menu` has every drink of the cases: one that is missing would read as sold out.
///
/// Errors: [`Error::Data`] with the drinks that it lacks.
pub fn check_menu<'a>(menu: &Menu, cases: impl IntoIterator<Item = &'a Case>) -> Result<()> {
    let names = cases.into_iter().flat_map(|case| case.order.items.iter().map(|line| line.name.as_str()));
    let missing: BTreeSet<&str> = names.filter(|name| menu.find(name).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let hint = "Add a row for each, with `\"stock\": 0` where it is sold out.";
    Err(Error::data("", format!("the menu has no row for {names}, which guests order"), hint))
}

/// The right answer while `menu` holds; the price of a drink that it lacks is null, as of one that is sold out (see
/// [`check_menu`]).
pub fn answer(order: &Order, menu: &Menu) -> String {
    #[derive(Serialize)]
    struct Priced<'a> {
        #[serde(flatten)]
        line: &'a Line,
        price: Option<u32>,
    }
    #[derive(Serialize)]
    struct Answer<'a> {
        items: Vec<Priced<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        takeaway: Option<bool>,
    }
    let price = |line: &Line| menu.find(&line.name).and_then(Row::price_now);
    let items = order.items.iter().map(|line| Priced { line, price: price(line) }).collect();
    serde_json::to_string(&Answer { items, takeaway: order.takeaway }).unwrap_or_default()
}

/// What the guest says, after the rows that were found for it. Where nothing was found, it says so.
pub fn with_rows(said: &str, rows: &[&Row]) -> String {
    let line = |row: &&Row| match row.price_now() {
        Some(price) => format!("{}: {price}", row.name),
        None => format!("{}: hết", row.name),
    };
    let lines: Vec<String> = rows.iter().map(line).collect();
    let found = if lines.is_empty() { "không tìm thấy".to_owned() } else { lines.join("\n") };
    format!("{found}\n\n{said}")
}

/// The input of a case: with the rows that `retriever` finds for it, if one is given.
pub fn input(case: &Case, retriever: Option<&Retriever>) -> String {
    match retriever {
        Some(retriever) => with_rows(&case.said, &retriever.search(&case.said, FOUND)),
        None => case.said.clone(),
    }
}

/// A case for a model that was trained on the task.
pub fn record(case: &Case, menu: &Menu, retriever: Option<&Retriever>) -> Record {
    Record {
        instruction: INSTRUCTION.into(),
        input: input(case, retriever),
        output: answer(&case.order, menu),
        ..Record::default()
    }
}

/// A case for a model that was not: the form in words, then `examples` as a conversation that went well.
pub fn prompted(case: &Case, examples: &[Case], menu: &Menu, retriever: Option<&Retriever>) -> Record {
    let message = |role: &str, content: String| Message { role: role.into(), content };
    let mut turns = vec![message("system", PROMPT.into())];
    for example in examples {
        turns.push(message("user", input(example, retriever)));
        turns.push(message("assistant", answer(&example.order, menu)));
    }
    Record { instruction: input(case, retriever), output: answer(&case.order, menu), turns, ..Record::default() }
}

/// Examples to train on. With `retrieving`, each has rows before it, of a menu whose prices were drawn for this example: so
/// the price has to be read, and cannot be learnt by heart.
pub fn training(cases: &[Case], menu: &Menu, retrieving: bool, seed: u64) -> Vec<Record> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let example = |case: &Case| {
        if !retrieving {
            return record(case, menu, None);
        }
        let draw = |row: &Row| Row {
            price: 1000 * rng.random_range(20..60),
            stock: if rng.random_range(0..10) == 0 { 0 } else { 1 },
            ..row.clone()
        };
        let drawn = Menu { rows: menu.rows.iter().map(draw).collect() };
        record(case, &drawn, Some(&Retriever::new(drawn.clone())))
    };
    cases.iter().map(example).collect()
}

/// Whether an answer is JSON that names the drinks of the right one, in their order, each at its price.
pub fn right_prices(expected: &str, answer: &str) -> bool {
    let items = |text: &str| -> Option<Vec<(Value, Value)>> {
        let value: Value = serde_json::from_str(text.trim()).ok()?;
        let items = value.get("items")?.as_array()?;
        Some(items.iter().map(|item| (item["name"].clone(), item["price"].clone())).collect())
    };
    items(expected).is_some_and(|expected| items(answer) == Some(expected))
}
