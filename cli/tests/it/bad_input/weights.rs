//! The model's folder and its safetensors.

use std::fs;
use std::path::Path;

use ferrotune::candle_core::DType;
use ferrotune::model::{self, Quantization, export};
use ferrotune::quant::QuantType;
use serde_json::json;

use super::spoil::{
    cast_tensor, drop_tensor, edit_header, edit_tensors, nothing, put_tensor, remove, replace, truncate, write,
};
use super::{LOGITS, MERGE, QUANTIZE, Row, TRAIN, row};

const WEIGHTS: &str = "model/model.safetensors";
const INDEX: &str = "model/model.safetensors.index.json";
const DAMAGED: &str = "copy or download it again";
const NORM: &str = "model.layers.1.input_layernorm.weight";
const UP: &str = "model.layers.0.mlp.up_proj.weight";

/// Puts the weights into 4 bits, as bitsandbytes stores them.
fn quantize(dir: &Path) {
    let quantization = Quantization { quant_type: QuantType::Nf4, double: true };
    let pretrained = model::open(&dir.join("model")).unwrap();
    export::write_quantized(&pretrained, quantization, export::SHARD_BYTES, &dir.join("4bit"), |_, _| {}).unwrap();
    drop(pretrained);
    remove(dir, "model");
    fs::rename(dir.join("4bit"), dir.join("model")).unwrap();
}

/// One shard, and an index that lists it.
fn shard(dir: &Path, weight_map: serde_json::Value) {
    fs::rename(dir.join(WEIGHTS), dir.join("model/model-00001-of-00001.safetensors")).unwrap();
    write(dir, INDEX, json!({"metadata": {}, "weight_map": weight_map}).to_string());
}

pub(super) fn rows() -> Vec<Row> {
    vec![
        // Names that lead nowhere.
        row(
            "absent model",
            |d| remove(d, "model"),
            LOGITS,
            &["could not read `model`", "a model's folder, or a `.gguf`"],
        ),
        row(
            "absent model, to chat",
            nothing,
            ["chat", "--model", "absent"],
            &["could not read `absent`", "a model's folder"],
        ),
        row(
            "a misspelt alias, to fetch",
            nothing,
            ["fetch", "smollm-135m"],
            &["`smollm-135m`", "The nearest name is `smollm2-135m`."],
        ),
        row(
            "neither folder nor GGUF",
            |d| write(d, "weights.bin", "x"),
            ["logits", "--model", "weights.bin", "--ids", "ids.json", "--out", "o"],
            &["`weights.bin`", "a model is a folder or a `.gguf` file", "pass the folder"],
        ),
        row(
            "a misspelt alias",
            nothing,
            ["generate", "--model", "smollm2-135", "--prompt", "a"],
            &["could not read `smollm2-135`", "The nearest name is `smollm2-135m`."],
        ),
        row(
            "a model of the Hub that is not in the cache",
            nothing,
            ["generate", "--model", "hf:org/absent", "--prompt", "a"],
            &["the model `org/absent` is not in Hugging Face's cache", "`ferrotune fetch hf:org/absent`"],
        ),
        row(
            "no name of the Hub",
            nothing,
            ["fetch", "hf:../../etc"],
            &["`../../etc` is not the name of a model", "`org/name`"],
        ),
        row(
            "an adapter for a model",
            nothing,
            ["logits", "--model", "adapter", "--ids", "ids.json", "--out", "o"],
            &["`adapter/config.json`", "pass it as the adapter"],
        ),
        // The file.
        row("no weights", |d| remove(d, WEIGHTS), LOGITS, &["`model/model.safetensors`", "A model's folder holds"]),
        row("empty weights", |d| write(d, WEIGHTS, ""), LOGITS, &[WEIGHTS, "0 bytes", DAMAGED]),
        row("truncated weights", |d| truncate(d, WEIGHTS, 60), LOGITS, &[WEIGHTS, "does not fit the file", DAMAGED]),
        row("truncated in the header", |d| truncate(d, WEIGHTS, 1), TRAIN, &[WEIGHTS, "header", DAMAGED]),
        row(
            "a header longer than the file",
            |d| {
                let bytes = fs::read(d.join(WEIGHTS)).unwrap();
                write(d, WEIGHTS, [&u64::MAX.to_le_bytes(), &bytes[8..]].concat());
            },
            LOGITS,
            &[WEIGHTS, "header", DAMAGED],
        ),
        row(
            "a header that is no JSON",
            |d| edit_header(d, WEIGHTS, |h| h.replacen(':', ";", 1)),
            LOGITS,
            &[WEIGHTS, "header", DAMAGED],
        ),
        row(
            "data offsets past the end",
            |d| edit_header(d, WEIGHTS, |h| h.replacen("\"data_offsets\":[", "\"data_offsets\":[9", 1)),
            LOGITS,
            &[WEIGHTS, "header", DAMAGED],
        ),
        row(
            "a type that the offsets belie",
            |d| edit_header(d, WEIGHTS, |h| h.replacen("\"F32\"", "\"F16\"", 1)),
            LOGITS,
            &[WEIGHTS, "header", DAMAGED],
        ),
        row(
            "an unknown type",
            |d| edit_header(d, WEIGHTS, |h| h.replacen("\"F32\"", "\"Q33\"", 1)),
            LOGITS,
            &[WEIGHTS, "header", "Q33"],
        ),
        // The tensors.
        row("a tensor too few", |d| drop_tensor(d, WEIGHTS, NORM), LOGITS, &[NORM, "`model`", "missing"]),
        row(
            "a tensor of another shape",
            |d| put_tensor(d, WEIGHTS, UP, 1.0, (32, 96)),
            LOGITS,
            &[UP, "[32, 96]", "[96, 32]", "copy both from the same one"],
        ),
        row("a tensor of whole numbers", |d| cast_tensor(d, WEIGHTS, NORM, DType::I64), LOGITS, &[NORM, "not a float"]),
        row(
            "NaN among the weights",
            |d| put_tensor(d, WEIGHTS, UP, f32::NAN, (96, 32)),
            LOGITS,
            &[UP, "element 0 is NaN"],
        ),
        row("NaN, to train on", |d| put_tensor(d, WEIGHTS, UP, f32::NAN, (96, 32)), TRAIN, &[UP, "element 0 is NaN"]),
        row("infinity, to quantize", |d| put_tensor(d, WEIGHTS, UP, f32::INFINITY, (96, 32)), QUANTIZE, &[UP, "inf"]),
        row("NaN, to merge into", |d| put_tensor(d, WEIGHTS, NORM, f32::NAN, 32), MERGE, &[NORM, "element 0 is NaN"]),
        // Shards.
        row(
            "an absent shard",
            |d| shard(d, json!({NORM: "model-00002-of-00002.safetensors"})),
            LOGITS,
            &["model-00002-of-00002.safetensors", INDEX, "copy it into the folder"],
        ),
        row(
            "a shard outside of the folder",
            |d| shard(d, json!({NORM: "../secret.safetensors"})),
            LOGITS,
            &[INDEX, NORM, "is not a file name"],
        ),
        row(
            "a shard that lacks what it is listed for",
            |d| shard(d, json!({"model.other": "model-00001-of-00001.safetensors"})),
            LOGITS,
            &["`model.other`", "model-00001-of-00001.safetensors", "missing"],
        ),
        row("an index without a map", |d| write(d, INDEX, "{}"), LOGITS, &[INDEX, "key `weight_map`"]),
        row(
            "an index that is no JSON",
            |d| write(d, INDEX, "{\n\"a\"\n}"),
            LOGITS,
            &[INDEX, "line 3", "not valid JSON"],
        ),
        // Weights in 4 bits.
        row(
            "4 bits without scales",
            |d| {
                quantize(d);
                drop_tensor(d, WEIGHTS, &format!("{UP}.absmax"));
            },
            LOGITS,
            &["mlp.up_proj.weight.absmax", "missing"],
        ),
        row(
            "4 bits with too few scales",
            |d| {
                quantize(d);
                edit_tensors(d, WEIGHTS, |t| {
                    let key = format!("{UP}.absmax");
                    let cut = t[&key].narrow(0, 0, 7).unwrap();
                    t.insert(key, cut);
                });
            },
            LOGITS,
            &["mlp.up_proj.weight.absmax", "[7]", "48"],
        ),
        row(
            "4 bits with a broken state",
            |d| {
                quantize(d);
                replace(d, WEIGHTS, b"\"blocksize\": 64", b"\"blocksize\": 63");
            },
            LOGITS,
            &["quant_state", "63"],
        ),
        row(
            "4 bits, to train whole",
            quantize,
            [TRAIN, &["--method", "full"]].concat(),
            &["stored in 4 bits", "full fine-tuning", "qlora"],
        ),
        row("4 bits, to quantize again", quantize, QUANTIZE, &["`model` is quantized already", "16-bit model"]),
    ]
}
