//! The coffee-shop orders: the committed files, their schema, and what the test split keeps for itself.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use ferrotune::data::orders::{self, DRINKS, Order, Sample, Split};
use ferrotune::data::{load, orders::INSTRUCTION};

fn committed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets/orders")
}

fn splits() -> [(Split, Vec<Sample>); 2] {
    [(Split::Train, orders::TRAIN_EXAMPLES), (Split::Test, orders::TEST_EXAMPLES)]
        .map(|(split, n)| (split, orders::samples(orders::SEED, split, n)))
}

#[test]
fn committed_files_are_what_the_generator_writes() {
    if std::env::var_os("FERROTUNE_BLESS").is_some() {
        orders::write(&committed()).unwrap();
    }
    let fresh = tempfile::tempdir().unwrap();
    orders::write(fresh.path()).unwrap();
    for name in ["train.jsonl", "test.jsonl"] {
        let read = |dir: &Path| std::fs::read_to_string(dir.join(name)).unwrap_or_default();
        let stale = read(&committed()) != read(fresh.path());
        assert!(!stale, "datasets/orders/{name} is stale; run this test again with FERROTUNE_BLESS=1");
    }
}

#[test]
fn outputs_are_compact_json_of_the_house_schema() {
    let drinks: HashSet<&str> = DRINKS.iter().map(|d| d.name).collect();
    let known = |value: &Option<String>, values: &[&str]| value.as_deref().is_none_or(|v| values.contains(&v));
    for name in ["train.jsonl", "test.jsonl"] {
        for record in load(&committed().join(name)).unwrap() {
            assert_eq!(record.instruction, INSTRUCTION);
            let order: Order = serde_json::from_str(&record.output).unwrap();
            assert_eq!(order.to_json(), record.output, "key order, spaces or defaults");
            assert!((1..=3).contains(&order.items.len()), "{}", record.output);
            for line in &order.items {
                assert!(drinks.contains(line.name.as_str()), "{}", record.output);
                assert!((1..=5).contains(&line.quantity), "{}", record.output);
                assert!(known(&line.size, &["S", "M", "L"]), "{}", record.output);
                assert!(known(&line.ice, &["none", "less", "more", "separate"]), "{}", record.output);
                assert!(known(&line.sugar, &["none", "less", "more", "30%", "50%", "70%"]), "{}", record.output);
                assert!(line.notes.iter().all(|n| ["trân châu", "thạch", "kem", "shot", "nóng"].contains(&n.as_str())));
                assert!(line.ice.is_none() || !line.notes.iter().any(|n| n == "nóng"), "{}", record.output);
            }
            let names: HashSet<_> = order.items.iter().map(|line| &line.name).collect();
            assert_eq!(names.len(), order.items.len(), "a drink twice: {}", record.output);
        }
    }
}

#[test]
fn the_test_shares_no_frame_no_line_and_no_pair_with_training() {
    let [(_, train), (_, test)] = splits();
    fn distinct<T: Eq + std::hash::Hash>(samples: &[Sample], of: impl Fn(&Sample) -> Vec<T>) -> HashSet<T> {
        samples.iter().flat_map(of).collect()
    }
    let pairs = |s: &Sample| {
        let names: Vec<String> = s.order.items.iter().map(|line| line.name.clone()).collect();
        let sorted = |a: &String, b: &String| if a < b { (a.clone(), b.clone()) } else { (b.clone(), a.clone()) };
        names.windows(2).map(|w| sorted(&w[0], &w[1])).collect()
    };
    // A drink with wishes is one line whatever the number; without wishes the number tells lines apart.
    let lines = |s: &Sample| {
        let mut lines = s.order.items.clone();
        for line in &mut lines {
            if line.size.is_some() || line.ice.is_some() || line.sugar.is_some() || !line.notes.is_empty() {
                line.quantity = 0;
            }
        }
        lines
    };
    assert!(
        distinct(&train, |s| vec![s.record.input.clone()])
            .is_disjoint(&distinct(&test, |s| vec![s.record.input.clone()]))
    );
    assert!(distinct(&train, |s| vec![s.frame.clone()]).is_disjoint(&distinct(&test, |s| vec![s.frame.clone()])));
    assert!(distinct(&train, lines).is_disjoint(&distinct(&test, lines)));
    assert!(distinct(&train, pairs).is_disjoint(&distinct(&test, pairs)));
    assert!(distinct(&test, pairs).len() > 20);
    // But every drink is taught.
    let names = distinct(&train, |s| s.order.items.iter().map(|line| line.name.clone()).collect());
    assert_eq!(names.len(), DRINKS.len());
}

#[test]
fn inputs_are_distinct_and_frames_vary() {
    for (split, samples) in splits() {
        let inputs: HashSet<_> = samples.iter().map(|s| &s.record.input).collect();
        let frames: HashSet<_> = samples.iter().map(|s| &s.frame).collect();
        assert_eq!(inputs.len(), samples.len(), "{split:?}");
        assert!(frames.len() * 10 > samples.len() * 9, "{split:?}: {} frames", frames.len());
    }
}

#[test]
fn a_seed_tells_everything() {
    let inputs = |seed: u64| orders::generate(seed, Split::Train, 50);
    assert_eq!(inputs(1), inputs(1));
    assert_ne!(inputs(1), inputs(2));
    assert_eq!(inputs(1)[..20], orders::generate(1, Split::Train, 20)[..]);
}

#[test]
fn worn_text_is_composed_unicode_and_short() {
    for (_, samples) in splits() {
        for input in samples.iter().map(|s| &s.record.input) {
            let combining = input.chars().any(|c| ('\u{300}'..='\u{36f}').contains(&c));
            assert!(!combining && !input.contains("  ") && !input.contains('{'), "{input}");
            assert!((8..=220).contains(&input.chars().count()), "{input}");
        }
    }
}

#[test]
fn the_data_cards_numbers_are_counted() {
    let [(_, train), (_, test)] = splits();
    let counts = |samples: &[Sample]| {
        let of_size = |n: usize| samples.iter().filter(|s| s.order.items.len() == n).count();
        let drinks: usize = samples.iter().map(|s| s.order.items.len()).sum();
        let frames = samples.iter().map(|s| &s.frame).collect::<HashSet<_>>().len();
        let plain = samples.iter().filter(|s| s.record.input.is_ascii()).count();
        [samples.len(), of_size(1), of_size(2), of_size(3), drinks, frames, plain]
    };
    for card in ["README.md", "README.vi.md"] {
        let text = std::fs::read_to_string(committed().join(card)).unwrap();
        for (train, test) in counts(&train).into_iter().zip(counts(&test)) {
            let row = format!(" | {train} | {test} |");
            assert!(text.contains(&row), "{card} should have a row ending in `{row}`");
        }
        for drink in &DRINKS {
            assert!(text.contains(drink.name), "{card}: the menu lacks {}", drink.name);
        }
    }
}

/// What the card says of the test: everything in it but the phrasing was taught.
#[test]
fn each_drink_wish_and_shorthand_of_the_test_is_taught() {
    let [(_, train), (_, test)] = splits();
    let words = |samples: &[Sample]| -> HashSet<String> {
        let values = |s: &Sample| {
            let lines = s.order.items.iter().flat_map(|l| {
                let wishes = [&l.size, &l.ice, &l.sugar].into_iter().flatten().cloned();
                wishes
                    .chain(l.notes.iter().cloned())
                    .chain([l.name.clone(), l.quantity.to_string()])
                    .collect::<Vec<_>>()
            });
            lines.collect::<Vec<_>>()
        };
        samples.iter().flat_map(values).collect()
    };
    assert!(words(&test).is_subset(&words(&train)));
    let typed = |samples: &[Sample]| -> HashSet<String> {
        let split = |s: &Sample| -> Vec<String> {
            let word = |c: char| !c.is_alphanumeric() && c != '%';
            orders::without_accents(&s.record.input.to_lowercase())
                .split(word)
                .filter(|w| !w.is_empty())
                .map(str::to_owned)
                .collect()
        };
        samples.iter().flat_map(split).collect()
    };
    let new: Vec<_> = typed(&test).difference(&typed(&train)).cloned().collect();
    let phrasing = ["alo", "roi", "r", "ma"];
    assert!(new.iter().all(|word| phrasing.contains(&word.as_str())), "{new:?}");
}
