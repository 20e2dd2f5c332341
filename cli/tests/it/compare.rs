//! `ferrotune compare`, from its first arm to its table, on a model that knows nothing.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{ferrotune_in, tiny};

fn menu() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../datasets/menu")
}

/// The tiny model with a chat template, and with room for prompts of one token a character.
fn workspace() -> tempfile::TempDir {
    let work = tiny::workspace();
    let edit = |name: &str, key: &str, value: Value| {
        let path = work.path().join("model").join(name);
        let mut json: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        json[key] = value;
        std::fs::write(path, json.to_string()).unwrap();
    };
    edit("config.json", "max_position_embeddings", 8192.into());
    let chat = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}";
    edit("tokenizer_config.json", "chat_template", chat.into());
    work
}

#[test]
fn every_approach_is_measured_once_and_kept() {
    let work = workspace();
    let menu = menu().display().to_string();
    let args =
        ["compare", "--model", "model", "--menu", &menu, "--examples", "8", "--orders", "2", "--out", "out", "--json"];
    let first = ferrotune_in(work.path(), &args);
    assert_eq!(first.code, Some(0), "{}", first.stderr);
    let told: Value = serde_json::from_str(&first.stdout).unwrap();
    let names: Vec<&str> = told["arms"].as_array().unwrap().iter().filter_map(|arm| arm["arm"].as_str()).collect();
    assert_eq!(names, ["zero-shot", "few-shot", "retrieval", "fine-tuning", "fine-tuning-and-retrieval"]);
    for arm in told["arms"].as_array().unwrap() {
        assert_eq!(arm["orders"], 2, "{arm}");
        assert!(arm["latency_seconds"].as_f64() > Some(0.0) && arm["prompt_tokens"].as_f64() > Some(0.0), "{arm}");
        for menu in ["before", "after"] {
            let rates = ["exact_match", "valid_json", "right_price"].map(|rate| arm[menu][rate].as_f64().unwrap());
            assert!(rates.iter().all(|rate| (0.0..=1.0).contains(rate)), "{arm}");
        }
    }
    let tokens = |i: usize| told["arms"][i]["prompt_tokens"].as_f64();
    assert!(tokens(0) < tokens(1) && tokens(1) < tokens(2) && tokens(3) < tokens(4), "{}", first.stdout);
    assert!(told["rates"]["prompt_tokens_per_second"].as_f64() > Some(0.0));
    let read = |name: &str| std::fs::read_to_string(work.path().join("out").join(name)).unwrap();
    assert!(read("table.md").contains("right price, menu changed") && read("chart.svg").starts_with("<svg"));

    let again = ferrotune_in(work.path(), &args);
    assert_eq!(again.stdout, first.stdout);
    assert_eq!(again.stderr.matches("measured before").count(), 5, "{}", again.stderr);
}

#[test]
fn a_menu_that_lacks_a_drink_is_refused_before_anything_is_trained() {
    let work = workspace();
    for name in ["menu.jsonl", "menu-new.jsonl"] {
        let rows = std::fs::read_to_string(menu().join(name)).unwrap();
        let rows: Vec<&str> = rows.lines().filter(|row| !row.contains("trà đào")).collect();
        std::fs::write(work.path().join(name), rows.join("\n")).unwrap();
    }
    let out =
        ferrotune_in(work.path(), &["compare", "--model", "model", "--menu", ".", "--examples", "100", "--out", "out"]);
    assert_eq!(out.code, Some(2), "{}", out.stderr);
    assert!(out.stderr.contains("no row for `trà đào`") && out.stderr.contains("\"stock\": 0"), "{}", out.stderr);
    assert!(!work.path().join("out").exists());
}
