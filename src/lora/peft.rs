//! PEFT's adapter files, both ways and strictly: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! Keys are `base_model.model.<module>.lora_A.weight` `[r, in]` and `….lora_B.weight` `[out, r]`; the adapter's name
//! (`default`) is not in the file, PEFT puts it there on loading.
//! Source: PEFT `docs/source/developer_guides/checkpoint.md`, `src/peft/utils/save_and_load.py`.

use super::adapter::{layer, targeted};
use super::{Adapter, Init, LoraConfig, LoraLayer, ModuleShape, TargetModules};
use crate::{Error, Result, files};
use candle_core::{DType, Device, Tensor};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The file of the matrices.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";
/// The file of the settings.
pub const CONFIG_FILE: &str = "adapter_config.json";

/// The key of `module`'s `matrix` (`lora_A` or `lora_B`) in the file.
pub fn key(module: &str, matrix: &str) -> String {
    format!("base_model.model.{module}.{matrix}.weight")
}

/// The key of `module`'s DoRA magnitudes, which has no `.weight` behind it.
pub fn magnitude_key(module: &str) -> String {
    format!("base_model.model.{module}.lora_magnitude_vector")
}

/// Writes `adapter` into `directory`: each file atomically, the matrices last.
///
/// Errors: [`Error::Write`].
pub fn save(adapter: &Adapter, directory: &Path) -> Result<()> {
    files::create_directory(directory)?;
    let mut text = serde_json::to_string_pretty(&config_json(adapter)).unwrap_or_default();
    text.push('\n');
    files::write_atomic(&directory.join(CONFIG_FILE), text.as_bytes())?;
    let tensors = adapter.tensors().into_iter().map(|(name, tensor)| (name, tensor.into()));
    files::write_safetensors(&directory.join(WEIGHTS_FILE), tensors)
}

/// Loads an adapter for a model with `modules`.
///
/// Errors: [`Error::Read`] and [`Error::Format`] for files that are absent or broken; [`Error::Tensor`] for a key that is
/// missing, unexpected, of another shape, or not finite; [`Error::Config`] for a PEFT feature that is not available.
pub fn load(directory: &Path, modules: &[ModuleShape], device: &Device) -> Result<Adapter> {
    let config_path = directory.join(CONFIG_FILE);
    let (config, base_model) = read_config(&config_path)?;
    let path = directory.join(WEIGHTS_FILE);
    let bytes = files::read(&path)?;
    let mut stored = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).map_err(|e| {
        Error::format(&path, "", format!("not a whole safetensors file ({e})"), "Train or download the adapter again.")
    })?;
    let mut layers = BTreeMap::new();
    let wrong_model = || match base_model.as_str() {
        "" => "Pass the model that the adapter was trained on.".to_string(),
        name => format!("The adapter was trained on `{name}`; pass that as the model."),
    };
    for module in targeted(&config, modules).map_err(|e| match e {
        Error::Config { what, .. } => Error::format(&config_path, "key `target_modules`", what, wrong_model()),
        other => other,
    })? {
        let r = config.rank_for(&module.name);
        let mut take = |name: String, shape: &[usize]| -> Result<Tensor> {
            let tensor = stored
                .remove(&name)
                .ok_or_else(|| Error::tensor(&name, &path, "missing from the file", wrong_model()))?;
            if tensor.dims() != shape {
                let what = format!("has shape {:?}, but the model's `{}` needs {shape:?}", tensor.dims(), module.name);
                return Err(Error::tensor(&name, &path, what, wrong_model()));
            }
            let tensor = tensor.to_dtype(DType::F32)?;
            let sum = tensor.abs()?.sum_all()?.to_scalar::<f32>()?;
            if !sum.is_finite() {
                return Err(Error::tensor(
                    &name,
                    &path,
                    "holds a value that is not finite",
                    "Train the adapter again.",
                ));
            }
            Ok(tensor.to_device(device)?)
        };
        let a = take(key(&module.name, "lora_A"), &[r, module.in_features])?;
        let b = take(key(&module.name, "lora_B"), &[module.out_features, r])?;
        let magnitude = match config.use_dora {
            true => Some(take(magnitude_key(&module.name), &[module.out_features])?),
            false => None,
        };
        layers.insert(module.name.clone(), LoraLayer { magnitude, ..layer(&config, &module.name, a, b) });
    }
    if let Some(name) = stored.keys().min() {
        let what = format!("unexpected: the model or `{CONFIG_FILE}` has no place for it ({} such keys)", stored.len());
        return Err(Error::tensor(name, &path, what, wrong_model()));
    }
    Ok(Adapter { config, base_model, layers })
}

/// The name of the model that the adapter described by the `adapter_config.json` at `path` was trained on; empty where
/// the file does not tell.
///
/// Errors: as [`load`].
pub fn base_model(path: &Path) -> Result<String> {
    Ok(read_config(path)?.1)
}

/// `adapter_config.json` as PEFT writes it, keys sorted; only fields that every PEFT release since 0.7 knows.
fn config_json(adapter: &Adapter) -> Value {
    let config = &adapter.config;
    let target_modules = match &config.target_modules {
        // PEFT itself replaces "all-linear" by the names that it found.
        TargetModules::AllLinear => {
            let kinds: BTreeSet<&str> = adapter.layers.keys().filter_map(|n| n.rsplit('.').next()).collect();
            json!(kinds)
        }
        TargetModules::Names(names) => json!(names),
    };
    let init = match config.init_lora_weights {
        Init::Gaussian => json!("gaussian"),
        _ => json!(true),
    };
    let fields: BTreeMap<&str, Value> = [
        ("alpha_pattern", json!(config.alpha_pattern)),
        ("auto_mapping", Value::Null),
        ("base_model_name_or_path", json!(adapter.base_model)),
        ("bias", json!("none")),
        ("fan_in_fan_out", json!(false)),
        ("inference_mode", json!(true)),
        ("init_lora_weights", init),
        ("layers_pattern", Value::Null),
        ("layers_to_transform", Value::Null),
        ("lora_alpha", number(config.lora_alpha)),
        ("lora_dropout", json!(config.lora_dropout)),
        ("modules_to_save", Value::Null),
        ("peft_type", json!("LORA")),
        ("r", json!(config.r)),
        ("rank_pattern", json!(config.rank_pattern)),
        ("revision", Value::Null),
        ("target_modules", target_modules),
        ("task_type", json!("CAUSAL_LM")),
        ("use_dora", json!(config.use_dora)),
        ("use_rslora", json!(config.use_rslora)),
    ]
    .into_iter()
    .collect();
    json!(fields)
}

/// PEFT declares `lora_alpha` an integer; a whole number is written as one.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) }
}

fn read_config(path: &Path) -> Result<(LoraConfig, String)> {
    let bytes = files::read(path)?;
    let fields: Map<String, Value> = serde_json::from_slice(&bytes).map_err(|e| {
        let place = format!("line {}, column {}", e.line(), e.column());
        Error::format(path, place, format!("not a JSON object ({e})"), "Restore the file as PEFT wrote it.")
    })?;
    let bad =
        |key: &str, what: &str| Error::format(path, format!("key `{key}`"), what, "Restore the file as PEFT wrote it.");
    let unavailable = |key: &str| {
        let what = format!("the adapter uses `{key}`, which is not available");
        Error::format(path, format!("key `{key}`"), what, "Convert it to plain LoRA with PEFT first.")
    };
    let set = |key: &str| {
        fields.get(key).is_some_and(|v| match v {
            Value::Null | Value::Bool(false) => false,
            Value::Array(items) => !items.is_empty(),
            Value::Object(items) => !items.is_empty(),
            Value::String(text) => !text.is_empty(),
            _ => true,
        })
    };
    match fields.get("peft_type").and_then(Value::as_str) {
        Some("LORA") => {}
        Some("PROMPT_TUNING") => {
            let what = "this is a tuned prompt, which has no matrices for the weights";
            let hint = "Use it beside its model: `ferrotune generate` and `chat` take it as `--adapter`.";
            return Err(Error::format(path, "key `peft_type`", what, hint));
        }
        _ => return Err(bad("peft_type", "is not \"LORA\"")),
    }
    if fields.get("bias").and_then(Value::as_str).is_some_and(|b| b != "none") {
        return Err(unavailable("bias"));
    }
    for key in [
        "fan_in_fan_out",
        "modules_to_save",
        "layers_to_transform",
        "layer_replication",
        "megatron_config",
        "trainable_token_indices",
        "target_parameters",
        "lora_bias",
        "exclude_modules",
        "alora_invocation_tokens",
        "use_qalora",
    ] {
        if set(key) {
            return Err(unavailable(key));
        }
    }
    let real = |key: &str, default: f64| match fields.get(key) {
        None | Some(Value::Null) => Ok(default),
        Some(v) => v.as_f64().ok_or_else(|| bad(key, "is not a number")),
    };
    let r = match fields.get("r") {
        None => 8,
        Some(v) => v.as_u64().filter(|r| *r > 0).ok_or_else(|| bad("r", "is not a positive whole number"))? as usize,
    };
    let target_modules = match fields.get("target_modules") {
        Some(Value::String(s)) if s == "all-linear" => TargetModules::AllLinear,
        Some(Value::Array(items)) => {
            let names: Option<Vec<String>> = items.iter().map(|v| v.as_str().map(String::from)).collect();
            let mut names = names.ok_or_else(|| bad("target_modules", "is not a list of names"))?;
            // PEFT keeps a set, so its order in the file is arbitrary.
            names.sort_unstable();
            TargetModules::Names(names)
        }
        Some(Value::String(name)) => TargetModules::Names(vec![name.clone()]),
        _ => return Err(bad("target_modules", "is missing")),
    };
    let pattern = |key: &str| -> Result<BTreeMap<String, f64>> {
        match fields.get(key) {
            None | Some(Value::Null) => Ok(BTreeMap::new()),
            Some(Value::Object(map)) => map
                .iter()
                .map(|(k, v)| {
                    Ok((k.clone(), v.as_f64().ok_or_else(|| bad(key, "holds a value that is not a number"))?))
                })
                .collect(),
            Some(_) => Err(bad(key, "is not an object")),
        }
    };
    let rank_pattern = pattern("rank_pattern")?;
    if rank_pattern.values().any(|r| *r < 1.0 || r.fract() != 0.0) {
        return Err(bad("rank_pattern", "holds a rank that is not a positive whole number"));
    }
    let config = LoraConfig {
        r,
        lora_alpha: real("lora_alpha", 8.0)?,
        lora_dropout: real("lora_dropout", 0.0)?,
        target_modules,
        use_rslora: set("use_rslora"),
        use_dora: set("use_dora"),
        init_lora_weights: match fields.get("init_lora_weights").and_then(Value::as_str) {
            Some("gaussian") => Init::Gaussian,
            _ => Init::Default,
        },
        rank_pattern: rank_pattern.into_iter().map(|(k, v)| (k, v as usize)).collect(),
        alpha_pattern: pattern("alpha_pattern")?,
    };
    let base = fields.get("base_model_name_or_path").and_then(Value::as_str).unwrap_or_default();
    Ok((config, base.to_string()))
}
