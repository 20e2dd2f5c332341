//! The decision framework: its tree walked, its menu read and searched, its task scored.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use ferrotune::data::orders::{DRINKS, Split};
use ferrotune::data::{Message, Record};
use ferrotune::decide::tree::{ADVICE, Approach, Next, QUESTIONS, Question, mermaid, question, walk};
use ferrotune::decide::{Menu, Retriever, menu::Row, task};

fn dataset(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets/menu").join(name)
}

fn menus() -> [Menu; 2] {
    ["menu.jsonl", "menu-new.jsonl"].map(|name| Menu::load(&dataset(name)).unwrap())
}

/// Every way to answer leads to an advice, in at most as many steps as there are questions; every advice is reached.
#[test]
fn every_path_ends_in_an_advice_and_every_advice_is_reached() {
    let mut reached = HashSet::new();
    let mut asked = HashSet::new();
    for answers in 0..1 << QUESTIONS.len() {
        let mut count = 0;
        let mut answer = |question: &'static Question| {
            asked.insert(question.id);
            count += 1;
            assert!(count <= QUESTIONS.len(), "the tree goes round in a circle");
            Ok(Some(answers >> (count - 1) & 1 == 1))
        };
        let (steps, advice) = walk(&mut answer).unwrap();
        assert_eq!(steps.len(), count);
        reached.insert(advice.id);
    }
    assert_eq!(reached.len(), ADVICE.len());
    assert_eq!(asked.len(), QUESTIONS.len());
}

#[test]
fn what_changes_is_looked_up_and_what_has_a_form_is_trained() {
    let advised = |yes: &[&str]| walk(|question| Ok(Some(yes.contains(&question.id)))).unwrap().1.approach;
    assert_eq!(advised(&["form"]), Approach::Prompt);
    assert_eq!(advised(&["form", "volume", "examples"]), Approach::FineTuning);
    assert_eq!(advised(&["examples"]), Approach::FineTuning);
    assert_eq!(advised(&[]), Approach::ExamplesFirst);
    assert_eq!(advised(&["knowledge", "form-with-facts"]), Approach::Retrieval);
    assert_eq!(advised(&["knowledge", "examples-with-facts"]), Approach::FineTuningAndRetrieval);
}

#[test]
fn a_decision_left_half_answered_says_which_question_is_open() {
    let error = walk(|question| Ok((question.id == "knowledge").then_some(false))).unwrap_err();
    assert!(error.is_input());
    let text = error.to_string();
    assert!(text.contains("`form` is open") && text.contains("--form yes"), "{text}");
}

/// The drawing has every question, every advice and every arrow, in both languages.
#[test]
fn the_drawing_is_the_tree() {
    for (language, yes, no) in [("en", "yes", "no"), ("vi", "có", "không")] {
        let chart = mermaid(language);
        assert_eq!(chart.matches("-->").count(), 2 * QUESTIONS.len());
        for question in &QUESTIONS {
            let text = if language == "vi" { question.text.vi } else { question.text.en };
            assert!(chart.contains(text) && !text.contains('"'), "{text}");
            for (word, next) in [(yes, question.yes), (no, question.no)] {
                let (Next::Ask(to) | Next::Take(to)) = next;
                assert!(chart.contains(&format!("{} -->|{word}| {to}\n", question.id)));
            }
        }
        assert!(ADVICE.iter().all(|advice| chart.contains(if language == "vi" {
            advice.text.vi
        } else {
            advice.text.en
        })));
    }
    assert!(question("form").is_some() && question("else").is_none());
}

/// The book's drawing has a place for every question and advice, and an arrow for every answer.
#[test]
fn the_book_draws_the_tree() {
    let figure = Path::new(env!("CARGO_MANIFEST_DIR")).join("lessons/figures/decision.svg");
    let svg = std::fs::read_to_string(figure).unwrap();
    let ids = QUESTIONS.iter().map(|question| question.id).chain(ADVICE.iter().map(|advice| advice.id));
    for id in ids {
        assert_eq!(svg.matches(&format!("{{{{{id}}}}}")).count(), 1, "{id}");
    }
    for question in &QUESTIONS {
        for answer in ["yes", "no"] {
            assert!(svg.contains(&format!("id=\"{}-{answer}\"", question.id)), "{} {answer}", question.id);
        }
    }
    assert_eq!(svg.matches("marker-end").count(), 2 * QUESTIONS.len());
}

#[test]
fn both_menus_sell_every_drink_and_differ() {
    let [before, after] = menus();
    for drink in &DRINKS {
        assert!(before.find(drink.name).and_then(Row::price_now).is_some(), "{}", drink.name);
        assert!(after.find(drink.name).is_some(), "{}", drink.name);
    }
    let changed = before.rows.iter().filter(|row| after.find(&row.name).map(Row::price_now) != Some(row.price_now()));
    assert_eq!((before.rows.len(), changed.count()), (18, 14));
}

#[test]
fn a_broken_row_is_refused_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("menu.jsonl");
    for (text, told) in [
        ("{\"name\":\"trà\",\"price\":1}\n\n{\"name\":\"cacao\"}", "line 3: `cacao` has no `price`"),
        ("{\"name\":\"trà\",\"price\":0}", "line 1: `trà` has no `price`"),
        ("{\"name\":\"trà\",\"price\":2.5}", "line 1: `trà` has no `price`"),
        ("{\"price\":1}", "line 1: the row has no `name`"),
        ("{\"name\":\"trà\",\"price\":1,\"stock\":-1}", "the `stock` of `trà`"),
        ("{\"name\":\"trà\",\"price\":1}\n{\"name\":\"trà\",\"price\":2}", "line 2: `trà` is there twice"),
        ("no JSON", "line 1: this is no JSON object"),
        ("\n", "has no rows"),
    ] {
        std::fs::write(&path, text).unwrap();
        let error = Menu::load(&path).unwrap_err();
        assert!(error.is_input() && error.to_string().contains(told), "{error}");
    }
    std::fs::write(&path, "{\"name\":\"trà\",\"price\":1}").unwrap();
    assert_eq!(Menu::load(&path).unwrap().rows[0].price_now(), Some(1), "without `stock` there is plenty");
}

#[test]
fn rows_are_found_with_and_without_accents_and_nothing_is_said_to_be_nothing() {
    let retriever = Retriever::new(menus()[0].clone());
    let first = |query: &str| retriever.search(query, 3).first().map(|row| row.name.clone());
    for drink in &DRINKS {
        assert_eq!(first(drink.name).as_deref(), Some(drink.name));
    }
    assert_eq!(first("Cho minh 2 tra dao it da nha").as_deref(), Some("trà đào"));
    assert_eq!(first("alo quán ơi"), None);
    assert_eq!(task::with_rows("alo", &retriever.search("alo", 3)), "không tìm thấy\n\nalo");
    assert_eq!(retriever.search("trà", 3).len(), 3);
    assert_eq!(retriever.search("trà", 3), retriever.search("trà", 3));
}

#[test]
fn the_right_answer_follows_the_menu() {
    let [before, after] = menus();
    let case = task::cases(Split::Test, 40).into_iter().find(|case| case.order.items[0].name == "cacao").unwrap();
    let [old, new] = [&before, &after].map(|menu| task::answer(&case.order, menu));
    assert!(old.contains("\"price\":42000") && new.contains("\"price\":null"), "{old} {new}");
    assert!(task::right_prices(&old, &old) && !task::right_prices(&new, &old));
    assert!(task::right_prices(&old, &old.replace("\"quantity\":1", "\"quantity\":9")), "prices alone are looked at");
    assert!(!task::right_prices(&old, "{\"items\":[]}") && !task::right_prices(&old, "42000"));
}

#[test]
fn training_with_rows_has_the_price_to_be_read_in_the_input() {
    let cases = task::cases(Split::Train, 60);
    let menu = &menus()[0];
    let records = task::training(&cases, menu, true, 1);
    assert_eq!(records, task::training(&cases, menu, true, 1));
    let mut prices = HashSet::new();
    for (record, case) in records.iter().zip(&cases) {
        let answer: serde_json::Value = serde_json::from_str(&record.output).unwrap();
        for (item, line) in answer["items"].as_array().unwrap().iter().zip(&case.order.items) {
            let price = item["price"].as_u64().map_or("hết".to_owned(), |price| price.to_string());
            let row = format!("{}: ", line.name);
            // A guest who writes shorthand may not be understood by the search.
            if let Some(at) = record.input.find(&row) {
                assert!(record.input[at + row.len()..].starts_with(&price), "{}\n{}", record.input, record.output);
                prices.insert(price);
            }
        }
    }
    assert!(prices.len() > 20, "prices are drawn anew: {prices:?}");
    let by_heart = task::training(&cases, menu, false, 1);
    assert!(by_heart.iter().zip(&cases).all(|(record, case)| record.input == case.said));
}

#[test]
fn a_prompt_shows_the_form_then_the_examples_then_asks() {
    let cases = task::cases(Split::Train, 3);
    let menu = &menus()[0];
    let retriever = Retriever::new(menu.clone());
    let record: Record = task::prompted(&cases[2], &cases[..2], menu, Some(&retriever));
    let roles: Vec<&str> = record.turns.iter().map(|Message { role, .. }| role.as_str()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "user", "assistant"]);
    assert!(record.instruction.ends_with(&cases[2].said) && record.instruction.contains(": "));
    assert_eq!(record.turns[2].content, task::answer(&cases[0].order, menu));
}
