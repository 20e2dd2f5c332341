//! `config.json` and its like.

use serde_json::{Value, json};

use super::spoil::{edit_json, remove, set, truncate, write};
use super::{GENERATE, LOGITS, PLAN, Row, TRAIN, row};

const CONFIG: &str = "model/config.json";

pub(super) fn rows() -> Vec<Row> {
    vec![
        row(
            "no config",
            |d| remove(d, CONFIG),
            LOGITS,
            &["`model/config.json`", "A model's folder holds `config.json`, safetensors and `tokenizer.json`"],
        ),
        row(
            "a config that is no JSON",
            |d| truncate(d, CONFIG, 50),
            LOGITS,
            &["`model/config.json`, line ", "not valid JSON", "from the model again"],
        ),
        row("a config that is a list", |d| write(d, CONFIG, "[]"), PLAN, &[CONFIG, "not a JSON object"]),
        row(
            "a config that is not UTF-8",
            |d| write(d, CONFIG, b"{\"a\": \"\xff\"}"),
            LOGITS,
            &["`model/config.json`, line 1", "not valid JSON", "from the model again"],
        ),
        row(
            "a config key too few",
            |d| set(d, CONFIG, "hidden_size", Value::Null),
            LOGITS,
            &[CONFIG, "key `hidden_size`", "missing"],
        ),
        row(
            "a word for a number",
            |d| set(d, CONFIG, "vocab_size", json!("many")),
            LOGITS,
            &[CONFIG, "key `vocab_size`", "`\"many\"` is not a positive whole number"],
        ),
        row(
            "a number that is too large",
            |d| set(d, CONFIG, "num_hidden_layers", json!(1u64 << 60)),
            PLAN,
            &[CONFIG, "key `num_hidden_layers`"],
        ),
        row(
            "more layers than there are",
            |d| set(d, CONFIG, "num_hidden_layers", json!(2_000_000_000)),
            LOGITS,
            &["`model.layers.2.input_layernorm.weight`", "missing"],
        ),
        row(
            "heads that do not divide the width",
            |d| {
                set(d, CONFIG, "num_attention_heads", json!(5));
                set(d, CONFIG, "head_dim", Value::Null);
            },
            LOGITS,
            &[CONFIG, "key `hidden_size`", "32 does not divide into 5 heads"],
        ),
        row(
            "heads that do not divide into groups",
            |d| set(d, CONFIG, "num_key_value_heads", json!(3)),
            LOGITS,
            &[CONFIG, "key `num_key_value_heads`", "4 attention heads do not divide into 3 groups"],
        ),
        row(
            "an unknown family",
            |d| set(d, CONFIG, "architectures", json!(["MambaForCausalLM"])),
            TRAIN,
            &[CONFIG, "`MambaForCausalLM` is not supported, only `LlamaForCausalLM`"],
        ),
        row(
            "an unknown rotary scaling",
            |d| edit_json(d, CONFIG, |c| c["rope_parameters"]["rope_type"] = json!("yarn")),
            LOGITS,
            &[CONFIG, "key `rope_type`", "`yarn` is not supported"],
        ),
        row(
            "biases",
            |d| set(d, CONFIG, "attention_bias", json!(true)),
            LOGITS,
            &[CONFIG, "key `attention_bias`", "not supported"],
        ),
        row(
            "another quantization",
            |d| set(d, CONFIG, "quantization_config", json!({"quant_method": "gptq", "bits": 4})),
            LOGITS,
            &[CONFIG, "key `quant_method`", "`gptq` is not supported, only `bitsandbytes` in 4 bits"],
        ),
        row(
            "a generation config of no ids",
            |d| write(d, "model/generation_config.json", "{\"eos_token_id\": \"</s>\"}"),
            [GENERATE, &["--prompt", "tea"]].concat(),
            &["`model/generation_config.json`, key `eos_token_id`", "</s>"],
        ),
    ]
}
