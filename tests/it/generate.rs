//! Decoding over small models that are plain functions of the tokens so far, sampling against transformers, and scoring.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::str::FromStr;

use candle_core::{Device, Tensor};
use ferrotune::evaluate::{Evaluation, evaluate, exact_match, score, valid_json};
use ferrotune::generate::{
    Completion, Event, Finish, GenerationConfig, Model, Sampler, TextStream, generate, process_scores,
};
use ferrotune::{Error, Result};
use proptest::prelude::*;
use tokenizers::Tokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

/// A model whose logits are a function of the sequence, and which counts what it is asked.
struct Toy<F> {
    vocab: usize,
    logits: F,
    positions: usize,
    /// The number of sequences in each step.
    batches: RefCell<Vec<usize>>,
}

impl<F: Fn(&[u32], &mut [f32])> Toy<F> {
    fn new(vocab: usize, logits: F) -> Self {
        Self { vocab, logits, positions: usize::MAX, batches: RefCell::default() }
    }
}

struct ToyCache {
    ids: Vec<u32>,
    capacity: usize,
}

impl<F: Fn(&[u32], &mut [f32])> Model for Toy<F> {
    type Cache = ToyCache;

    fn new_cache(&self, capacity: usize) -> Result<ToyCache> {
        Ok(ToyCache { ids: vec![], capacity })
    }

    fn step(&self, caches: &mut [&mut ToyCache], tokens: &[&[u32]]) -> Result<Tensor> {
        self.batches.borrow_mut().push(caches.len());
        let mut all = vec![0.0; caches.len() * self.vocab];
        for ((cache, new), row) in caches.iter_mut().zip(tokens).zip(all.chunks_mut(self.vocab)) {
            assert!(!new.is_empty());
            cache.ids.extend_from_slice(new);
            assert!(cache.ids.len() <= cache.capacity);
            (self.logits)(&cache.ids, row);
        }
        Ok(Tensor::from_vec(all, (caches.len(), self.vocab), &Device::Cpu)?)
    }

    fn max_positions(&self) -> usize {
        self.positions
    }
}

const STOP: u32 = 15;

/// Scores that look random and depend on every token so far.
fn hashed(ids: &[u32], row: &mut [f32]) {
    for (i, score) in row.iter_mut().enumerate() {
        let mut hash = i as u64 + 1;
        for &id in ids {
            hash = (hash ^ u64::from(id)).wrapping_mul(0x100_0000_01b3).rotate_left(23);
        }
        *score = (hash % 1000) as f32 / 200.0;
    }
}

/// After the prompt `[n]`: n tokens 7, then the stop token.
fn counting(ids: &[u32], row: &mut [f32]) {
    row[if ids.len() as u32 <= ids[0] { 7 } else { STOP as usize }] = 1.0;
}

fn config() -> GenerationConfig {
    GenerationConfig { max_new_tokens: 12, stop_token_ids: vec![STOP], ..Default::default() }
}

fn quiet<M: Model>(model: &M, prompts: &[Vec<u32>], config: &GenerationConfig) -> Result<Vec<Completion>> {
    generate(model, prompts, config, &mut |_| (), &|| false)
}

fn prompts() -> Vec<Vec<u32>> {
    (0..9).map(|i| (0..=i % 4).map(|j| (i * 5 + j * 3) % 15).collect()).collect()
}

#[test]
fn a_completion_does_not_depend_on_its_batch() {
    for temperature in [0.0, 0.7, 1.5] {
        let base =
            GenerationConfig { temperature, top_k: 12, top_p: 0.95, repetition_penalty: 1.1, seed: 5, ..config() };
        let run = |batch_size| {
            quiet(&Toy::new(16, hashed), &prompts(), &GenerationConfig { batch_size, ..base.clone() }).unwrap()
        };
        let alone = run(1);
        assert!(alone.iter().any(|c| c.finish == Finish::Stop) && alone.iter().any(|c| c.finish == Finish::Length));
        assert!(alone.iter().all(|c| !c.ids.contains(&STOP)), "the stop token is left out");
        for batch_size in [2, 4, 100] {
            assert_eq!(run(batch_size), alone, "temperature {temperature}, batch size {batch_size}");
        }
    }
}

#[test]
fn greedy_takes_the_best_token_each_time() {
    let prompt = vec![3, 1];
    let got = &quiet(&Toy::new(16, hashed), std::slice::from_ref(&prompt), &config()).unwrap()[0];
    let mut ids = prompt;
    loop {
        let mut row = [0.0; 16];
        hashed(&ids, &mut row);
        let best = (0..16).rev().max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap() as u32;
        if best == STOP || ids.len() == 2 + 12 {
            break;
        }
        ids.push(best);
    }
    assert_eq!(got.ids, ids[2..]);
    assert!(!got.ids.is_empty());
}

#[test]
fn a_finished_sequence_makes_room_at_once() {
    let model = Toy::new(16, counting);
    let prompts: Vec<Vec<u32>> = [1, 5, 1, 1].map(|n| vec![n]).to_vec();
    let got = quiet(&model, &prompts, &GenerationConfig { batch_size: 2, ..config() }).unwrap();
    let lengths: Vec<_> = got.iter().map(|c| c.ids.len()).collect();
    assert_eq!(lengths, [1, 5, 1, 1]);
    // One place goes to the long one, the other to the three short ones: 6 steps, none of them half empty.
    assert_eq!(*model.batches.borrow(), [2; 6]);
}

#[test]
fn a_completion_ends_at_the_limit_or_the_last_position() {
    let mut model = Toy::new(16, counting);
    let got = quiet(&model, &[vec![14, 0]], &GenerationConfig { max_new_tokens: 3, ..config() }).unwrap();
    assert_eq!(got[0], Completion { ids: vec![7; 3], finish: Finish::Length });
    model.positions = 4;
    let got = quiet(&model, &[vec![14, 0]], &config()).unwrap();
    assert_eq!(got[0], Completion { ids: vec![7; 2], finish: Finish::Length });
    let got = quiet(&model, &[vec![14, 0]], &GenerationConfig { max_new_tokens: 0, ..config() }).unwrap();
    assert_eq!(got[0], Completion { ids: vec![], finish: Finish::Length });
}

#[test]
fn events_tell_every_token_and_every_end() {
    let prompts = prompts();
    let mut told: Vec<Vec<u32>> = vec![vec![]; prompts.len()];
    let mut ends: Vec<Option<Completion>> = vec![None; prompts.len()];
    let mut on_event = |event: Event| match event {
        Event::Token { prompt, id } => {
            assert_eq!(ends[prompt], None);
            told[prompt].push(id);
        }
        Event::Finished { prompt, completion } => assert_eq!(ends[prompt].replace(completion.clone()), None),
    };
    let config = GenerationConfig { batch_size: 3, ..config() };
    let got = generate(&Toy::new(16, hashed), &prompts, &config, &mut on_event, &|| false).unwrap();
    assert_eq!(got.iter().map(|c| c.ids.clone()).collect::<Vec<_>>(), told);
    assert_eq!(got.into_iter().map(Some).collect::<Vec<_>>(), ends);
}

#[test]
fn a_cancelled_generation_keeps_what_there_is() {
    let asked = Cell::new(0);
    let cancelled = || asked.replace(asked.get() + 1) >= 4;
    let prompts: Vec<Vec<u32>> = [1, 9, 9, 9].map(|n| vec![n]).to_vec();
    let config = GenerationConfig { batch_size: 2, ..config() };
    let got = generate(&Toy::new(16, counting), &prompts, &config, &mut |_| (), &cancelled).unwrap();
    let ends: Vec<_> = got.iter().map(|c| (c.ids.len(), c.finish)).collect();
    assert_eq!(ends, [(1, Finish::Stop), (4, Finish::Cancelled), (2, Finish::Cancelled), (0, Finish::Cancelled)]);
}

#[test]
fn what_cannot_be_generated_is_refused_in_words() {
    let refused = |prompts: &[Vec<u32>], config: &GenerationConfig| {
        let mut model = Toy::new(16, hashed);
        model.positions = 8;
        let error = quiet(&model, prompts, config).unwrap_err();
        assert!(error.is_input(), "{error}");
        assert!(model.batches.borrow().is_empty(), "nothing ran");
        error.to_string()
    };
    assert!(refused(&[vec![1], vec![]], &config()).contains("prompt 2 has no tokens"));
    assert!(refused(&[vec![1; 8]], &config()).contains("prompt 1 has 8 tokens, the model takes 8"));
    let bad = [
        ("temperature", GenerationConfig { temperature: -1.0, ..config() }),
        ("temperature", GenerationConfig { temperature: f64::NAN, ..config() }),
        ("top_p", GenerationConfig { top_p: 0.0, ..config() }),
        ("top_p", GenerationConfig { top_p: 1.1, ..config() }),
        ("repetition_penalty", GenerationConfig { repetition_penalty: 0.0, ..config() }),
        ("batch_size", GenerationConfig { batch_size: 0, ..config() }),
    ];
    for (name, config) in bad {
        assert!(refused(&[vec![1]], &config).starts_with(&format!("`{name}` is ")), "{name}");
    }
}

#[test]
fn logits_that_are_not_numbers_stop_the_generation() {
    for value in [f32::NAN, f32::NEG_INFINITY] {
        let model = Toy::new(16, move |_: &[u32], row: &mut [f32]| row.fill(value));
        let error = quiet(&model, &[vec![1]], &config()).unwrap_err();
        assert!(matches!(error, Error::Numeric { .. }), "{error}");
    }
}

#[test]
fn scores_pass_the_processors_of_transformers() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/sampling.json");
    let golden: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() >= 9);
    for (c, case) in cases.iter().enumerate() {
        let number = |key: &str| case[key].as_f64().unwrap();
        let config = GenerationConfig {
            repetition_penalty: number("repetition_penalty"),
            temperature: number("temperature"),
            top_k: number("top_k") as usize,
            top_p: number("top_p"),
            ..config()
        };
        let previous: Vec<u32> = serde_json::from_value(case["previous"].clone()).unwrap();
        let mut scores: Vec<f32> = serde_json::from_value(case["scores"].clone()).unwrap();
        let expected: Vec<Option<f32>> = serde_json::from_value(case["processed"].clone()).unwrap();
        process_scores(&mut scores, &previous, &config);
        for (i, (&got, &expected)) in scores.iter().zip(&expected).enumerate() {
            let expected = expected.unwrap_or(f32::NEG_INFINITY);
            assert!(
                got == expected || (got - expected).abs() <= 1e-6 * expected.abs(),
                "case {c}[{i}]: {got} {expected}"
            );
        }
    }
}

#[test]
fn tokens_are_drawn_as_often_as_their_probability_says() {
    let scores = [1.0f32, 0.0, 2.0, -1.0, 0.5];
    let config = GenerationConfig { temperature: 1.0, seed: 9, ..config() };
    let draws = 20_000;
    let mut counts = [0usize; 5];
    let mut sampler = Sampler::new(&config, 0);
    for _ in 0..draws {
        counts[sampler.next(&mut scores.clone(), &[]).unwrap() as usize] += 1;
    }
    let total: f64 = scores.iter().map(|&s| f64::from(s).exp()).sum();
    for (i, &count) in counts.iter().enumerate() {
        let p = f64::from(scores[i]).exp() / total;
        // Five standard deviations of a binomial count.
        let bound = 5.0 * (draws as f64 * p * (1.0 - p)).sqrt();
        assert!((count as f64 - draws as f64 * p).abs() < bound, "token {i}: {count} of {draws}, p = {p}");
    }
}

#[test]
fn seed_and_prompt_decide_about_the_draws() {
    let draws = |seed, prompt| {
        let config = GenerationConfig { temperature: 1.0, seed, ..config() };
        let mut sampler = Sampler::new(&config, prompt);
        (0..40).map(|_| sampler.next(&mut [0.0; 16], &[]).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(draws(1, 0), draws(1, 0));
    assert_ne!(draws(1, 0), draws(2, 0));
    assert_ne!(draws(1, 0), draws(1, 1));
    assert_ne!(draws(1, 1), draws(2, 0), "seed and index are not simply added");
}

/// GPT-2's bytes: each byte is one token, so every Vietnamese letter with a mark is two or three.
fn byte_tokenizer() -> Tokenizer {
    let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    alphabet.sort_unstable();
    let vocab: serde_json::Map<_, _> = alphabet.iter().enumerate().map(|(i, c)| (c.to_string(), i.into())).collect();
    let byte_level = serde_json::json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true
    });
    let special = serde_json::json!({
        "id": 256, "content": "<eos>", "special": true, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false
    });
    let json = serde_json::json!({
        "version": "1.0", "added_tokens": [special], "normalizer": null, "post_processor": null,
        "pre_tokenizer": byte_level.clone(), "decoder": byte_level, "model": { "type": "BPE", "vocab": vocab, "merges": [] }
    });
    Tokenizer::from_str(&json.to_string()).unwrap()
}

/// Llama 2's way: a mark for spaces, bytes for what is not in the vocabulary, the first space dropped.
fn fallback_tokenizer() -> Tokenizer {
    let mut vocab: serde_json::Map<_, _> = (0..256).map(|b| (format!("<0x{b:02X}>"), b.into())).collect();
    for (i, c) in "▁abcdefghijklmnopqrstuvwxyz".chars().enumerate() {
        vocab.insert(c.to_string(), (256 + i).into());
    }
    vocab.insert("<unk>".into(), 300.into());
    let json = serde_json::json!({
        "version": "1.0", "added_tokens": [], "post_processor": null, "pre_tokenizer": null,
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "Prepend", "prepend": "▁" },
            { "type": "Replace", "pattern": { "String": " " }, "content": "▁" } ] },
        "decoder": { "type": "Sequence", "decoders": [
            { "type": "Replace", "pattern": { "String": "▁" }, "content": " " },
            { "type": "ByteFallback" }, { "type": "Fuse" },
            { "type": "Strip", "content": " ", "start": 1, "stop": 0 } ] },
        "model": { "type": "BPE", "vocab": vocab, "merges": [], "byte_fallback": true, "unk_token": "<unk>" }
    });
    Tokenizer::from_str(&json.to_string()).unwrap()
}

fn pieces(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
    let mut stream = TextStream::new(tokenizer, true);
    let mut pieces: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    pieces.push(stream.finish().unwrap());
    pieces
}

#[test]
fn a_vietnamese_letter_comes_whole() {
    let text = "cà phê sữa đá ít đường";
    for tokenizer in [byte_tokenizer(), fallback_tokenizer()] {
        let ids = tokenizer.encode(text, false).unwrap().get_ids().to_vec();
        assert!(ids.len() > text.chars().count(), "letters are spread over tokens");
        let pieces = pieces(&tokenizer, &ids);
        assert_eq!(pieces.concat(), text);
        assert!(pieces.iter().all(|piece| piece.chars().count() <= 1), "each as soon as it is whole: {pieces:?}");
    }
}

#[test]
fn a_letter_cut_off_at_the_end_is_given_as_such() {
    let tokenizer = byte_tokenizer();
    let mut ids = tokenizer.encode("đá", false).unwrap().get_ids().to_vec();
    ids.pop();
    assert_eq!(pieces(&tokenizer, &ids), ["", "đ", "", "\u{FFFD}"]);
}

#[test]
fn special_tokens_are_left_out_on_request() {
    let tokenizer = byte_tokenizer();
    let mut ids = tokenizer.encode("ok", false).unwrap().get_ids().to_vec();
    ids.push(256);
    assert_eq!(pieces(&tokenizer, &ids).concat(), "ok");
    let mut stream = TextStream::new(&tokenizer, false);
    let shown: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    assert_eq!(shown, "ok<eos>");
}

proptest! {
    #[test]
    fn pieces_together_are_the_whole_text(bytes in proptest::collection::vec(0u32..257, 0..60)) {
        let tokenizer = byte_tokenizer();
        prop_assert_eq!(pieces(&tokenizer, &bytes).concat(), tokenizer.decode(&bytes, true).unwrap());
    }

    #[test]
    fn pieces_together_are_the_text_that_was_encoded(text in "[ a-zà-ỹ✓😀]{0,30}") {
        for tokenizer in [byte_tokenizer(), fallback_tokenizer()] {
            let ids = tokenizer.encode(text.as_str(), false).unwrap().get_ids().to_vec();
            prop_assert_eq!(pieces(&tokenizer, &ids).concat(), text.clone());
        }
    }
}

#[test]
fn answers_are_compared_as_text_and_parsed_as_json() {
    assert!(exact_match("{\"a\":1}", " {\"a\":1}\n"));
    assert!(!exact_match("{\"a\":1}", "{\"a\": 1}"), "inner white space counts");
    assert!(!exact_match("đá", "da"));
    for (answer, valid) in [
        ("{\"món\": [\"cà phê\"]}", true),
        (" [1, 2]\n", true),
        ("", false),
        ("{\"a\": 1", false),
        ("{\"a\": 1} xong", false),
        ("```json\n{}\n```", false),
        ("{'a': 1}", false),
    ] {
        assert_eq!(valid_json(answer), valid, "{answer}");
    }
}

#[test]
fn rates_are_shares_and_failures_are_kept() {
    let examples = [("[1]", "[1]"), ("[2]", "[3]"), ("[4]", "không"), ("[5]", "[5] ")];
    let scored =
        examples.iter().enumerate().map(|(i, (expected, answer))| score(i, expected, answer, Finish::Stop)).collect();
    let evaluation = Evaluation::new(scored, false);
    let scores = evaluation.scores;
    assert_eq!((scores.exact_match, scores.valid_json, scores.n), (0.5, 0.75, 4));
    assert_eq!(evaluation.failures().map(|f| f.index).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(serde_json::to_string(&scores).unwrap(), r#"{"exact_match":0.5,"valid_json":0.75,"n":4}"#);
    let scores = ferrotune::evaluate::TaskScores { eval_loss: Some(0.25), ..scores };
    let json = serde_json::to_string(&scores).unwrap();
    assert!(json.ends_with(r#""eval_loss":0.25}"#), "{json}");
    assert_eq!(serde_json::from_str::<ferrotune::evaluate::TaskScores>(&json).unwrap(), scores);
    assert_eq!(Evaluation::new(vec![], true).scores.exact_match, 0.0);
}

#[test]
fn a_model_is_scored_on_its_decoded_answers() {
    let tokenizer = byte_tokenizer();
    let encode = |text: &str| tokenizer.encode(text, false).unwrap().get_ids().to_vec();
    // The model answers the prompt "1" with `[1]` and all others with `[`.
    let (one, answer) = (encode("1")[0], encode("[1]"));
    let script = move |ids: &[u32], row: &mut [f32]| {
        let next = if ids[0] == one || ids.len() == 1 { answer.get(ids.len() - 1).copied() } else { None };
        row[next.unwrap_or(256) as usize] = 1.0;
    };
    let prompts = [encode("1"), encode("2"), encode("1")];
    let expected = ["[1]", "[2]", "[3]"].map(String::from);
    let config = GenerationConfig { stop_token_ids: vec![256], batch_size: 2, ..config() };
    let mut progress = vec![];
    let mut on_progress = |done, of| progress.push((done, of));
    let model = Toy::new(257, script);
    let got = evaluate(&model, &tokenizer, &prompts, &expected, &config, &mut on_progress, &|| false).unwrap();
    assert_eq!(progress, [(1, 3), (2, 3), (3, 3)]);
    assert_eq!((got.scores.n, got.scores.exact_match, got.scores.valid_json), (3, 1.0 / 3.0, 2.0 / 3.0));
    assert_eq!(got.examples[1].answer, "[");
    assert!(!got.interrupted);

    let asked = Cell::new(0);
    let cancelled = || asked.replace(asked.get() + 1) >= 2;
    let part = evaluate(&model, &tokenizer, &prompts, &expected, &config, &mut |_, _| (), &cancelled).unwrap();
    assert_eq!(
        (part.interrupted, part.scores.n, part.examples[0].index),
        (true, 1, 1),
        "only the short one is finished"
    );
}
