//! The two kinds of tokenizer that a GGUF file describes, each with a vocabulary that can be followed by hand.

use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Value;
use ferrotune::model::{self, Pretrained};

use super::gguf::Gguf;
use super::{config, folder, tensors};

/// Opens a GGUF file of tiny-llama-2 with these keys besides.
fn open(metadata: Vec<(&str, Value)>) -> ferrotune::Result<Pretrained> {
    let tensors = tensors("tiny-llama-2");
    let reference = folder(&config("tiny-llama-2"), &tensors);
    let mut gguf = Gguf::new(&model::open(reference.path()).unwrap().config, &tensors, GgmlDType::F32);
    gguf.metadata.extend(metadata.into_iter().map(|(key, value)| (key.to_string(), value)));
    let directory = tempfile::tempdir().unwrap();
    model::open(&gguf.write(directory.path()))
}

fn texts(values: &[&str]) -> Value {
    Value::Array(values.iter().map(|text| Value::String(text.to_string())).collect())
}

fn numbers(values: &[i32]) -> Value {
    Value::Array(values.iter().map(|n| Value::I32(*n)).collect())
}

fn ids(pretrained: &Pretrained, text: &str, special: bool) -> Vec<u32> {
    pretrained.tokenizer().unwrap().encode(text, special).unwrap().get_ids().to_vec()
}

fn byte_level() -> Vec<(&'static str, Value)> {
    vec![
        ("tokenizer.ggml.model", Value::String("gpt2".into())),
        ("tokenizer.ggml.pre", Value::String("gpt-2".into())),
        // `Ġ` stands for a blank.
        ("tokenizer.ggml.tokens", texts(&["<unk>", "<s>", "</s>", "a", "b", "ab", "Ġ", "Ġa", "<|im_end|>"])),
        ("tokenizer.ggml.token_type", numbers(&[3, 3, 3, 1, 1, 1, 1, 1, 3])),
        ("tokenizer.ggml.merges", texts(&["a b", "Ġ a"])),
        ("tokenizer.ggml.bos_token_id", Value::U32(1)),
        ("tokenizer.ggml.eos_token_id", Value::U32(2)),
        ("tokenizer.chat_template", Value::String("{{ messages }}".into())),
    ]
}

#[test]
fn byte_level_tokens_follow_the_merges() {
    let model = open(byte_level()).unwrap();
    assert_eq!(ids(&model, "ab a", true), [5, 7]);
    assert_eq!(ids(&model, "ba</s>", true), [4, 3, 2], "a control token is matched whole");
    assert_eq!(model.tokenizer().unwrap().decode(&[5, 7, 2], true).unwrap(), "ab a");
    assert_eq!(model.eos_token_id().unwrap(), 2);
    assert_eq!(model.eos_token_ids, [2, 8], "an end of turn is found by its name");
    assert_eq!((model.bos_token_id, model.leading_bos()), (Some(1), None));
    assert_eq!(model.chat_template.as_deref(), Some("{{ messages }}"));
}

#[test]
fn a_beginning_of_sequence_is_added_where_the_file_asks_for_it() {
    let mut metadata = byte_level();
    metadata.push(("tokenizer.ggml.add_bos_token", Value::Bool(true)));
    let model = open(metadata).unwrap();
    assert_eq!(ids(&model, "ab", true), [1, 5]);
    assert_eq!(ids(&model, "ab", false), [5]);
    assert_eq!(model.leading_bos(), Some(1));
}

/// SentencePiece: the best score merges first, and what has no token falls back to bytes.
#[test]
fn sentencepiece_tokens_follow_the_scores() {
    let scores = |values: &[f32]| Value::Array(values.iter().map(|x| Value::F32(*x)).collect());
    let tokens = ["<unk>", "<s>", "</s>", "<0x0A>", "▁", "a", "b", "▁a", "ab"];
    let metadata = |a: f32, ab: f32| {
        vec![
            ("tokenizer.ggml.model", Value::String("llama".into())),
            ("tokenizer.ggml.tokens", texts(&tokens)),
            ("tokenizer.ggml.token_type", numbers(&[2, 3, 3, 6, 1, 1, 1, 1, 1])),
            ("tokenizer.ggml.scores", scores(&[0.0, 0.0, 0.0, 0.0, -9.0, -8.0, -7.0, a, ab])),
            ("tokenizer.ggml.bos_token_id", Value::U32(1)),
            ("tokenizer.ggml.eos_token_id", Value::U32(2)),
        ]
    };
    let model = open(metadata(-1.0, -2.0)).unwrap();
    assert_eq!(ids(&model, "ab", true), [1, 7, 6], "`▁a` before `ab`");
    assert_eq!(model.leading_bos(), Some(1), "added unless the file says otherwise");
    assert_eq!(ids(&model, "a\n", false), [7, 3]);
    assert_eq!(model.tokenizer().unwrap().decode(&[1, 7, 6, 3], true).unwrap(), "ab\n");
    let model = open(metadata(-2.0, -1.0)).unwrap();
    assert_eq!(ids(&model, "ab", true), [1, 4, 8], "`ab` before `▁a`");
}

#[test]
fn metadata_that_contradicts_itself_is_refused_by_key() {
    for (key, value, told) in [
        ("tokenizer.ggml.model", Some(Value::String("bert".into())), "`bert`"),
        ("tokenizer.ggml.pre", Some(Value::String("qwen2".into())), "`qwen2`"),
        ("tokenizer.ggml.tokens", None, "missing"),
        ("tokenizer.ggml.merges", None, "missing"),
        ("tokenizer.ggml.merges", Some(texts(&["a c"])), "`c`"),
        ("tokenizer.ggml.merges", Some(texts(&["ab"])), "`ab`"),
        ("tokenizer.ggml.token_type", Some(numbers(&[1])), "1 types and 9 tokens"),
    ] {
        let mut metadata = byte_level();
        metadata.retain(|(k, _)| *k != key);
        metadata.extend(value.map(|value| (key, value)));
        let error = open(metadata).err().unwrap_or_else(|| panic!("{key} is not refused"));
        let text = error.to_string();
        assert!(error.is_input() && text.contains("tiny.gguf"), "{text}");
        assert!(text.contains(key) && text.contains(told), "{key}, {told}: {text}");
    }
}
