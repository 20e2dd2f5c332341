//! Tokenizers: `tokenizer.json` of a directory, or the one that a GGUF file's metadata describes.
//!
//! The second is written as the `tokenizer.json` that it stands for. GGUF has two kinds: `gpt2`, byte-level BPE whose
//! `tokenizer.ggml.pre` names the rule that splits text, and `llama`, SentencePiece BPE with byte fallback, whose merges are
//! recovered from the scores as transformers does (`generate_merges`).

use std::collections::HashMap;
use std::path::Path;

use candle_core::quantized::gguf_file::Value as Metadata;
use serde_json::{Value, json};
use tokenizers::Tokenizer;

use crate::model::weights::gguf::GgufFile;
use crate::{Error, Result, files};

/// Llama 3's split. Source: llama.cpp `llama-vocab.cpp`, `LLAMA_VOCAB_PRE_TYPE_LLAMA3`, and the model's own `tokenizer.json`.
pub(super) const LLAMA3_SPLIT: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// Types in `tokenizer.ggml.token_type`.
const UNKNOWN: u64 = 2;
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;

/// Names of end-of-turn tokens; a chat model that ends its turn with one ends its answer.
pub(super) const END_OF_TURN: [&str; 4] = ["<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_turn|>"];

/// Reads a `tokenizer.json`.
///
/// Errors: [`Error::Format`] where the file is damaged.
pub(crate) fn from_file(path: &Path) -> Result<Tokenizer> {
    let hint = "Copy the file from the model again.";
    let json = serde_json::from_slice(&files::read(path)?).map_err(|e| {
        Error::format(path, format!("line {}", e.line()), format!("this is not valid JSON ({e})"), hint)
    })?;
    build(json).map_err(|what| Error::format(path, "", format!("this is not a tokenizer: {what}"), hint))
}

/// A tokenizer from the content of a `tokenizer.json`.
fn build(json: Value) -> Result<Tokenizer, String> {
    check_merges(&json["model"])?;
    // Some of the crate's messages end in a full stop.
    serde_json::from_value(json).map_err(|e| e.to_string().trim_end_matches('.').into())
}

/// Checks that merges lead from tokens to tokens; tokenizers 0.23 panics on one that makes an unknown long token.
fn check_merges(model: &Value) -> Result<(), String> {
    let (Some(vocab), Some(merges)) = (model["vocab"].as_object(), model["merges"].as_array()) else { return Ok(()) };
    let prefix = model["continuing_subword_prefix"].as_str().unwrap_or_default();
    for merge in merges {
        let pair = match merge {
            Value::String(text) => text.split_once(' '),
            Value::Array(pair) => match &pair[..] {
                [Value::String(l), Value::String(r)] => Some((l.as_str(), r.as_str())),
                _ => None,
            },
            _ => None,
        };
        let Some((left, right)) = pair else { return Err(format!("the merge `{merge}` is not two tokens")) };
        let joined = right.strip_prefix(prefix).map(|rest| format!("{left}{rest}"));
        if !joined.is_some_and(|joined| [left, right, &joined].iter().all(|token| vocab.contains_key(*token))) {
            return Err(format!("the merge of `{left}` and `{right}` is not between tokens of the vocabulary"));
        }
    }
    Ok(())
}

/// Checks that every id of the tokenizer has a row in the embedding.
///
/// Errors: [`Error::Format`] for the wrong tokenizer, naming its largest token.
pub(crate) fn check(tokenizer: &Tokenizer, vocab_size: usize, path: &Path) -> Result<()> {
    let largest = tokenizer.get_vocab(true).into_iter().max_by_key(|(_, id)| *id);
    match largest {
        Some((token, id)) if id as usize >= vocab_size => Err(Error::format(
            path,
            format!("token `{token}`"),
            format!("its id {id} is outside of the model's vocabulary of {vocab_size}"),
            "This is the wrong tokenizer; copy the one that belongs to the model.",
        )),
        Some(_) => Ok(()),
        None => Err(Error::format(path, "", "the vocabulary is empty", "Copy the file from the model again.")),
    }
}

/// Builds the tokenizer that a GGUF file describes; `None` if it describes none.
///
/// Errors: [`Error::Format`] for a kind or split that is not supported, or metadata that contradicts itself.
pub(crate) fn from_gguf(file: &GgufFile) -> Result<Option<Tokenizer>> {
    let Some(kind) = file.text("tokenizer.ggml.model")? else { return Ok(None) };
    let vocab = Vocabulary::read(file)?;
    let json = match kind {
        "gpt2" => byte_level(file, &vocab)?,
        "llama" => sentencepiece(file, &vocab)?,
        other => {
            let what = format!("the tokenizer `{other}` is not supported, only `gpt2` and `llama`");
            return Err(file.refuse("tokenizer.ggml.model", what));
        }
    };
    build(json).map(Some).map_err(|what| file.refuse("tokenizer.ggml.merges", what))
}

/// The ids that end an answer: the tokenizer's end of sequence first, then end-of-turn tokens that the file has.
pub(crate) fn gguf_eos(file: &GgufFile, tokenizer: Option<&Tokenizer>) -> Result<Vec<u32>> {
    let mut ids = Vec::new();
    for key in ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"] {
        ids.extend(file.unsigned(key)?.and_then(|id| u32::try_from(id).ok()));
    }
    if let Some(tokenizer) = tokenizer {
        // llama.cpp finds end-of-turn tokens by name too, since converters often leave their ids out.
        let special = tokenizer.get_added_tokens_decoder();
        let named = END_OF_TURN.iter().filter_map(|name| tokenizer.token_to_id(name));
        ids.extend(named.filter(|id| special.get(id).is_some_and(|t| t.special)));
    }
    Ok(ids)
}

struct Vocabulary<'a> {
    tokens: Vec<&'a str>,
    types: Vec<u64>,
}

impl<'a> Vocabulary<'a> {
    fn read(file: &'a GgufFile) -> Result<Self> {
        let key = "tokenizer.ggml.tokens";
        let values = file.array(key)?.ok_or_else(|| file.refuse(key, "the key is missing"))?;
        let tokens = strings(file, key, values)?;
        let key = "tokenizer.ggml.token_type";
        let types = match file.array(key)? {
            None => vec![1; tokens.len()],
            Some(values) => {
                let wrong = || file.refuse(key, "a type is not a whole number");
                let read = |v: &Metadata| v.to_i32().map(|n| n as u64).or_else(|_| v.to_u64()).map_err(|_| wrong());
                values.iter().map(read).collect::<Result<Vec<u64>>>()?
            }
        };
        if types.len() != tokens.len() {
            return Err(file.refuse(key, format!("there are {} types and {} tokens", types.len(), tokens.len())));
        }
        Ok(Self { tokens, types })
    }

    fn ids(&self) -> HashMap<&'a str, u32> {
        self.tokens.iter().enumerate().map(|(id, token)| (*token, id as u32)).collect()
    }

    /// The JSON of tokens that are matched whole: those of type `special`, and user-defined ones.
    fn added(&self, special: &[u64]) -> Vec<Value> {
        let tokens = self.tokens.iter().zip(&self.types).enumerate();
        tokens
            .filter(|(_, (_, kind))| special.contains(kind) || **kind == USER_DEFINED)
            .map(|(id, (token, kind))| {
                json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                       "normalized": false, "special": special.contains(kind)})
            })
            .collect()
    }

    /// What puts the beginning of sequence in front, where the file asks for that.
    fn post_processor(&self, file: &GgufFile, default: bool) -> Result<Value> {
        if !file.flag("tokenizer.ggml.add_bos_token")?.unwrap_or(default) {
            return Ok(Value::Null);
        }
        let key = "tokenizer.ggml.bos_token_id";
        let id = file.unsigned(key)?.ok_or_else(|| file.refuse(key, "`add_bos_token` needs it, and it is missing"))?;
        let Some(token) = self.tokens.get(id as usize) else {
            return Err(file.refuse(key, format!("{id} is outside of the vocabulary of {}", self.tokens.len())));
        };
        let bos = json!({"SpecialToken": {"id": token, "type_id": 0}});
        let text = |id: &str, type_id: u32| json!({"Sequence": {"id": id, "type_id": type_id}});
        let second = json!({"SpecialToken": {"id": token, "type_id": 1}});
        Ok(json!({
            "type": "TemplateProcessing",
            "single": [bos, text("A", 0)],
            "pair": [bos, text("A", 0), second, text("B", 1)],
            "special_tokens": {*token: {"id": token, "ids": [id], "tokens": [token]}},
        }))
    }
}

fn strings<'a>(file: &GgufFile, key: &str, values: &'a [Metadata]) -> Result<Vec<&'a str>> {
    let read = |v: &'a Metadata| match v {
        Metadata::String(text) => Ok(text.as_str()),
        _ => Err(file.refuse(key, "an entry is not a string")),
    };
    values.iter().map(read).collect()
}

fn merges<'a>(file: &'a GgufFile) -> Result<Option<Vec<(&'a str, &'a str)>>> {
    let key = "tokenizer.ggml.merges";
    let Some(values) = file.array(key)? else { return Ok(None) };
    let split = |text: &'a str| {
        text.split_once(' ').ok_or_else(|| file.refuse(key, format!("`{text}` is not two tokens and a space")))
    };
    Ok(Some(strings(file, key, values)?.into_iter().map(split).collect::<Result<_>>()?))
}

fn byte_level(file: &GgufFile, vocab: &Vocabulary) -> Result<Value> {
    let key = "tokenizer.ggml.pre";
    let bytes = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
    let sequence = |first: Value, use_regex| json!({"type": "Sequence", "pretokenizers": [first, bytes(use_regex)]});
    let pre = file.text(key)?.unwrap_or("default");
    // (how text is split, whether a word that is one token skips the merges)
    let (pre_tokenizer, ignore_merges) = match pre {
        "default" | "gpt-2" => (bytes(true), false),
        "smollm" => (sequence(json!({"type": "Digits", "individual_digits": true}), true), false),
        "llama-bpe" | "llama3" | "llama-v3" => {
            let split =
                json!({"type": "Split", "pattern": {"Regex": LLAMA3_SPLIT}, "behavior": "Isolated", "invert": false});
            (sequence(split, false), true)
        }
        other => {
            let what =
                format!("the split `{other}` is not supported, only `default`, `gpt-2`, `smollm` and `llama-bpe`");
            return Err(file.refuse(key, what));
        }
    };
    let merges = merges(file)?.ok_or_else(|| file.refuse("tokenizer.ggml.merges", "the key is missing"))?;
    Ok(json!({
        "version": "1.0",
        "added_tokens": vocab.added(&[CONTROL]),
        "pre_tokenizer": pre_tokenizer,
        "post_processor": vocab.post_processor(file, false)?,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "ignore_merges": ignore_merges, "vocab": vocab.ids(), "merges": merges},
    }))
}

fn sentencepiece(file: &GgufFile, vocab: &Vocabulary) -> Result<Value> {
    let ids = vocab.ids();
    let merges: Vec<(&str, &str)> = match merges(file)? {
        Some(merges) => merges,
        None => merges_from_scores(&vocab.tokens, &scores(file, vocab.tokens.len())?, &ids),
    };
    let prefix = file.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let unknown = vocab.types.iter().position(|kind| *kind == UNKNOWN).map(|id| vocab.tokens[id]);
    Ok(json!({
        "version": "1.0",
        "added_tokens": vocab.added(&[CONTROL, UNKNOWN]),
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "split": false,
                          "prepend_scheme": if prefix { "first" } else { "never" }},
        "post_processor": vocab.post_processor(file, true)?,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {"type": "BPE", "unk_token": unknown, "fuse_unk": true, "byte_fallback": true,
                  "vocab": ids, "merges": merges},
    }))
}

fn scores(file: &GgufFile, count: usize) -> Result<Vec<f32>> {
    let key = "tokenizer.ggml.scores";
    let values = file.array(key)?.ok_or_else(|| file.refuse(key, "the key is missing, and so is `merges`"))?;
    if values.len() != count {
        return Err(file.refuse(key, format!("there are {} scores and {count} tokens", values.len())));
    }
    values.iter().map(|v| v.to_f32().map_err(|_| file.refuse(key, "a score is not a 32-bit float"))).collect()
}

/// Every way to cut a token into two tokens, best score first, then longest left and right parts first.
///
/// Source: transformers `tokenization_utils_base.generate_merges`, whose sort is stable.
fn merges_from_scores<'a>(tokens: &[&'a str], scores: &[f32], ids: &HashMap<&str, u32>) -> Vec<(&'a str, &'a str)> {
    let mut found = Vec::new();
    for (&token, &score) in tokens.iter().zip(scores) {
        let length = token.chars().count();
        let mut cuts: Vec<_> = token
            .char_indices()
            .enumerate()
            .skip(1)
            .filter_map(|(left, (byte, _))| {
                let (l, r) = token.split_at(byte);
                Some(((ids.get(l)?, ids.get(r)?), (score, left, length - left, l, r)))
            })
            .collect();
        cuts.sort_by_key(|(pair, _)| *pair);
        found.extend(cuts.into_iter().map(|(_, cut)| cut));
    }
    found.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)).then(b.2.cmp(&a.2)));
    found.into_iter().map(|(_, _, _, l, r)| (l, r)).collect()
}
