//! PEFT adapters.

use std::fs;

use serde_json::{Value, json};

use super::spoil::{drop_tensor, nothing, put_tensor, remove, set, truncate, write};
use super::workspace::golden;
use super::{ADAPTED, GENERATE, MERGE, Row, row};

const CONFIG: &str = "adapter/adapter_config.json";
const WEIGHTS: &str = "adapter/adapter_model.safetensors";
const UP_A: &str = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight";
/// What adapters of `tiny-llama-3.2` say to do.
const OTHER_MODEL: &str = "The adapter was trained on `tiny-llama-3.2`; pass that as the model.";
const AS_PEFT: &str = "Restore the file as PEFT wrote it.";

fn of_another_model(dir: &std::path::Path) {
    for path in [CONFIG, WEIGHTS] {
        let file = golden("tiny-llama-2/lora").join(path.trim_start_matches("adapter/"));
        fs::copy(file, dir.join(path)).unwrap();
    }
}

pub(super) fn rows() -> Vec<Row> {
    vec![
        row("no adapter", |d| remove(d, "adapter"), ADAPTED, &["could not read `adapter/adapter_config.json`"]),
        row(
            "no adapter weights",
            |d| remove(d, WEIGHTS),
            ADAPTED,
            &["could not read `adapter/adapter_model.safetensors`"],
        ),
        row(
            "an adapter config that is no JSON",
            |d| truncate(d, CONFIG, 50),
            ADAPTED,
            &["`adapter/adapter_config.json`, line ", "not a JSON object", AS_PEFT],
        ),
        row(
            "truncated adapter weights",
            |d| truncate(d, WEIGHTS, 50),
            ADAPTED,
            &[WEIGHTS, "not a whole safetensors file", "again"],
        ),
        row(
            "an adapter of another model",
            of_another_model,
            ADAPTED,
            &[WEIGHTS, "has shape ", "needs ", "trained on `tiny-llama-2`; pass that as the model"],
        ),
        row(
            "an adapter of another model, to merge",
            of_another_model,
            MERGE,
            &[WEIGHTS, "has shape ", "trained on `tiny-llama-2`"],
        ),
        row(
            "an adapter of another model that it does not name",
            |d| {
                of_another_model(d);
                set(d, CONFIG, "base_model_name_or_path", Value::Null);
            },
            ADAPTED,
            &[WEIGHTS, "has shape ", "Pass the model that the adapter was trained on."],
        ),
        row(
            "an adapter key too many",
            |d| put_tensor(d, WEIGHTS, "base_model.model.lm_head.lora_A.weight", 0.0, (4, 32)),
            ADAPTED,
            &["`base_model.model.lm_head.lora_A.weight`", WEIGHTS, "unexpected", OTHER_MODEL],
        ),
        row(
            "an adapter key too few",
            |d| drop_tensor(d, WEIGHTS, UP_A),
            ADAPTED,
            &[UP_A, WEIGHTS, "missing", OTHER_MODEL],
        ),
        row(
            "an adapter that is not finite",
            |d| put_tensor(d, WEIGHTS, UP_A, f32::INFINITY, (4, 32)),
            ADAPTED,
            &[UP_A, WEIGHTS, "not finite", "Train the adapter again."],
        ),
        row(
            "an adapter for a module that is not there",
            |d| set(d, CONFIG, "target_modules", json!(["c_attn"])),
            ADAPTED,
            &[CONFIG, "key `target_modules`", "`c_attn`"],
        ),
        row(
            "DoRA without its magnitudes",
            |d| set(d, CONFIG, "use_dora", json!(true)),
            ADAPTED,
            &[WEIGHTS, "lora_magnitude_vector", "missing from the file"],
        ),
        row(
            "trained biases",
            |d| set(d, CONFIG, "bias", json!("all")),
            ADAPTED,
            &[CONFIG, "key `bias`", "not available", "plain LoRA"],
        ),
        row(
            "whole modules",
            |d| set(d, CONFIG, "modules_to_save", json!(["lm_head"])),
            MERGE,
            &[CONFIG, "key `modules_to_save`", "not available", "plain LoRA"],
        ),
        row(
            "another method of PEFT",
            |d| set(d, CONFIG, "peft_type", json!("IA3")),
            ADAPTED,
            &[CONFIG, "key `peft_type`", "\"LORA\""],
        ),
        row(
            "a tuned prompt to merge",
            |d| set(d, CONFIG, "peft_type", json!("PROMPT_TUNING")),
            MERGE,
            &[CONFIG, "key `peft_type`", "tuned prompt", "`--adapter`"],
        ),
        row(
            "an adapter of rank 0",
            |d| set(d, CONFIG, "r", json!(0)),
            ADAPTED,
            &[CONFIG, "key `r`", "positive whole number"],
        ),
        row(
            "a rank of 0 for a module",
            |d| set(d, CONFIG, "rank_pattern", json!({"q_proj": 0})),
            ADAPTED,
            &[CONFIG, "key `rank_pattern`", "not a positive whole number", AS_PEFT],
        ),
        row(
            "an alpha that is a word",
            |d| set(d, CONFIG, "lora_alpha", json!("big")),
            ADAPTED,
            &[CONFIG, "key `lora_alpha`", "not a number", AS_PEFT],
        ),
        row(
            "an adapter that names no model",
            |d| set(d, CONFIG, "base_model_name_or_path", Value::Null),
            ["generate", "--adapter", "adapter", "--prompt", "tea"],
            &[CONFIG, "key `base_model_name_or_path`", "`--model`"],
        ),
        row(
            "an adapter that names an absent model",
            nothing,
            ["generate", "--adapter", "adapter", "--prompt", "tea"],
            &["could not read `tiny-llama-3.2`", "The adapter `adapter` says that it was trained on it", "`--model`"],
        ),
        row(
            "a prompt file that is no JSON",
            |d| write(d, "adapter/prompt.json", "{"),
            [GENERATE, &["--adapter", "adapter", "--prompt", "tea"]].concat(),
            &["`adapter/prompt.json`, line 1"],
        ),
    ]
}
