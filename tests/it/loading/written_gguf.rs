//! GGUF files as the library writes them, read back.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::Path;

use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
use candle_core::{DType, Device, Tensor};
use ferrotune::model::export::{GgufType, write_gguf};
use ferrotune::model::names;
use ferrotune::model::{self, Config, Pretrained};
use serde_json::{Value, json};

use super::{TINY, Tensors, assert_same_weights, config, folder, logits, tensors, values, weight};

const TYPES: [GgufType; 5] = [GgufType::F16, GgufType::Bf16, GgufType::Q8_0, GgufType::Q4_0, GgufType::Q4K];

fn write(pretrained: &Pretrained, kind: GgufType, directory: &Path) -> Pretrained {
    let path = directory.join("written.gguf");
    write_gguf(pretrained, kind, &path, |_, _| {}).unwrap();
    assert_eq!(fs::read_dir(directory).unwrap().count(), 1, "a temporary file is left");
    model::open(&path).unwrap()
}

/// A tiny model with rows of 32 and the one rule of rotary divisors that published models follow.
fn tiny(name: &str) -> (Value, Tensors) {
    let mut config = config(name);
    if !config["rope_parameters"]["factor"].is_null() {
        config["rope_parameters"]["original_max_position_embeddings"] = json!(8192);
    }
    config["intermediate_size"] = json!(96);
    let tensors = random(&config);
    (config, tensors)
}

/// Weights for a model of this shape.
fn random(config: &Value) -> Tensors {
    let config = Config::from_json(config.clone(), Path::new("config.json")).unwrap();
    let weight = |shape: Vec<usize>| Tensor::randn(0f32, 0.1, shape, &Device::Cpu).unwrap();
    names::expected(&config).map(|(name, shape)| (name, weight(shape))).collect()
}

/// A weight after it was stored as `kind`.
fn stored(tensor: &Tensor, kind: GgmlDType) -> Vec<f32> {
    let stored = QTensor::quantize(tensor, kind).unwrap();
    values(&stored.dequantize(&Device::Cpu).unwrap())
}

#[test]
fn a_written_file_is_the_model_rounded_to_its_types() {
    for (name, kind) in TINY.into_iter().flat_map(|name| TYPES.map(|kind| (name, kind))) {
        let what = format!("{name} {kind:?}");
        let (json, tensors) = tiny(name);
        let folder = folder(&json, &tensors);
        let original = model::open(folder.path()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let written = write(&original, kind, directory.path());
        assert_eq!(written.weights.names(), original.weights.names(), "{what}");
        let (found, expected) = (&written.config, &original.config);
        assert_eq!(found.rope_scaling, expected.rope_scaling, "{what}");
        assert_eq!((found.rope_theta, found.rms_norm_eps), (expected.rope_theta, expected.rms_norm_eps), "{what}");
        assert_eq!(found.tie_word_embeddings, expected.tie_word_embeddings, "{what}");
        assert_eq!(found.max_position_embeddings, expected.max_position_embeddings, "{what}");

        let file = gguf_file::Content::read(&mut File::open(directory.path().join("written.gguf")).unwrap()).unwrap();
        let mut types: HashMap<String, usize> = HashMap::new();
        for name in original.weights.names() {
            let kind = file.tensor_infos[&names::to_gguf(&name).unwrap()].ggml_dtype;
            *types.entry(format!("{kind:?}")).or_default() += 1;
            // The order of rows is part of what is read back; types are blocks of a row, so it changes none of them.
            assert_eq!(values(&weight(&written, &name)), stored(&weight(&original, &name), kind), "{what}: {name}");
        }
        let layers = original.config.num_hidden_layers;
        assert_eq!(types["F32"], 2 * layers + 1, "{what}: the norms, {types:?}");
        let expected = match kind {
            GgufType::F16 => "F16",
            GgufType::Bf16 => "BF16",
            GgufType::Q8_0 => "Q8_0",
            GgufType::Q4_0 => "Q4_0",
            // No row of the tiny models has 256 columns.
            GgufType::Q4K => "Q5_0",
        };
        assert!(types[expected] >= 7 * layers, "{what}: {types:?}");
    }
}

#[test]
fn rows_of_256_are_q4_k_and_their_head_q6_k() {
    let mut config = config(TINY[0]);
    config["hidden_size"] = json!(256);
    config["intermediate_size"] = json!(512);
    config["head_dim"] = json!(64);
    config["num_hidden_layers"] = json!(1);
    let original = folder(&config, &random(&config));
    let directory = tempfile::tempdir().unwrap();
    write(&model::open(original.path()).unwrap(), GgufType::Q4K, directory.path());
    let file = gguf_file::Content::read(&mut File::open(directory.path().join("written.gguf")).unwrap()).unwrap();
    for (name, expected) in [
        ("token_embd.weight", GgmlDType::Q4K),
        ("blk.0.attn_q.weight", GgmlDType::Q4K),
        ("blk.0.ffn_down.weight", GgmlDType::Q4K),
        ("output.weight", GgmlDType::Q6K),
        ("blk.0.attn_norm.weight", GgmlDType::F32),
    ] {
        assert_eq!(file.tensor_infos[name].ggml_dtype, expected, "{name}");
    }
}

#[test]
fn rows_that_are_no_blocks_are_refused_before_anything_is_written() {
    let mut config = config(TINY[0]);
    config["intermediate_size"] = json!(100);
    let original = folder(&config, &random(&config));
    let pretrained = model::open(original.path()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("new/a.gguf");
    let error = write_gguf(&pretrained, GgufType::Q4_0, &path, |_, _| {}).unwrap_err();
    assert!(error.is_input() && error.to_string().contains("down_proj"), "{error}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    write_gguf(&pretrained, GgufType::F16, &path, |_, _| {}).unwrap();
    assert_eq!(model::open(&path).unwrap().weights.names(), pretrained.weights.names());
}

/// Byte-level and SentencePiece-like tokenizers, with a chat template.
#[test]
fn tokenizers_are_read_back() {
    let texts = ["Hello, hello  12345!\n\n", " Xin chào, bạn ơi 🙂", "<|end|>a<|end|>", "", "a\tb"];
    for (kind, tokenizer) in [("byte level", byte_level()), ("with byte fallback", byte_fallback())] {
        let original = folder(&config(TINY[0]), &tensors(TINY[0]));
        fs::write(original.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        let settings =
            json!({"bos_token": "<s>", "eos_token": "<|end|>", "chat_template": "{{ messages[0].content }}"});
        fs::write(original.path().join("tokenizer_config.json"), settings.to_string()).unwrap();
        let original = model::open(original.path()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let written = write(&original, GgufType::F16, directory.path());
        let (one, other) = (original.tokenizer().unwrap(), written.tokenizer().unwrap());
        for text in texts {
            let (expected, found) = (one.encode(text, true).unwrap(), other.encode(text, true).unwrap());
            assert_eq!(found.get_ids(), expected.get_ids(), "{kind}: {text:?}");
            let ids = expected.get_ids();
            assert_eq!(other.decode(ids, true).unwrap(), one.decode(ids, true).unwrap(), "{kind}: {text:?}");
        }
        assert_eq!(written.chat_template, original.chat_template, "{kind}");
        assert_eq!(written.bos_token_id, original.bos_token_id, "{kind}");
        assert_eq!(written.eos_token_ids[0], original.eos_token_ids[0], "{kind}");
        assert_eq!(written.leading_bos(), original.leading_bos(), "{kind}");
    }
}

#[test]
fn a_split_that_gguf_has_no_name_for_is_refused() {
    let original = folder(&config(TINY[0]), &tensors(TINY[0]));
    let mut tokenizer = byte_level();
    tokenizer["pre_tokenizer"] = json!({"type": "Whitespace"});
    fs::write(original.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let pretrained = model::open(original.path()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let error = write_gguf(&pretrained, GgufType::F16, &directory.path().join("a.gguf"), |_, _| {}).unwrap_err();
    assert!(error.is_input() && error.to_string().contains("`smollm`"), "{error}");
}

#[test]
fn a_written_file_answers_like_its_model() {
    let (json, tensors) = tiny(TINY[1]);
    let original = folder(&json, &tensors);
    let directory = tempfile::tempdir().unwrap();
    let f16 = write(&model::open(original.path()).unwrap(), GgufType::F16, directory.path());
    let round = |t: Tensor| t.to_dtype(DType::F16).unwrap().to_dtype(DType::F32).unwrap();
    let rounded = tensors.into_iter().map(|(n, t)| (n, if t.rank() == 2 { round(t) } else { t })).collect();
    let reference = folder(&json, &rounded);
    let reference = model::open(reference.path()).unwrap();
    assert_same_weights("f16", &f16, &reference);
    assert_eq!(logits(&f16, None), logits(&reference, None));
}

fn added(id: usize, content: &str) -> Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true})
}

fn with_bos() -> Value {
    json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
    })
}

/// The tokens that a tiny model has ids for; `first` are the special ones.
fn vocabulary(first: &[&str], rest: impl IntoIterator<Item = String>) -> serde_json::Map<String, Value> {
    let size = config(TINY[0])["vocab_size"].as_u64().unwrap() as usize;
    let tokens = first.iter().map(|t| t.to_string()).chain(rest);
    tokens.take(size).enumerate().map(|(id, token)| (token, json!(id))).collect()
}

fn byte_level() -> Value {
    let merged = ["ll", "he", "hell", "Ġ1"].map(String::from);
    let letters = "aehloXinc,!12345bĠĊĉ".chars().map(String::from);
    json!({
        "version": "1.0",
        "added_tokens": [added(0, "<s>"), added(1, "<|end|>")],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}
        ]},
        "post_processor": with_bos(),
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocabulary(&["<s>", "<|end|>"], letters.chain(merged)),
                  "merges": [["l", "l"], ["h", "e"], ["he", "ll"], ["Ġ", "1"]]},
    })
}

fn byte_fallback() -> Value {
    let bytes = [0x0A, 0x09, 0xF0, 0x9F, 0x99, 0x82, 0x21].map(|b| format!("<0x{b:02X}>"));
    let letters = "▁aehloXincà,1b".chars().map(String::from);
    let merged = ["▁a", "ll", "el", "hell"].map(String::from);
    json!({
        "version": "1.0",
        "added_tokens": [added(0, "<s>"), added(1, "<|end|>"), added(2, "<unk>")],
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false},
        "post_processor": with_bos(),
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}
        ]},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
                  "vocab": vocabulary(&["<s>", "<|end|>", "<unk>"], bytes.into_iter().chain(letters).chain(merged)),
                  "merges": [["▁", "a"], ["l", "l"], ["e", "l"]]},
    })
}
