//! A run's settings from files and flags.

use std::path::Path;

use ferrotune::Error;
use ferrotune::lora::config::{Init, TargetModules};
use ferrotune::prompt_tuning::{PromptInit, PromptTuningConfig};
use ferrotune::quant::QuantType;
use ferrotune::train::config::{
    ComputeDtype, KEYS, Key, Method, Resume, RunConfig, SchedulerType, Strategy, Table, TemplateName,
};
use proptest::prelude::*;

fn parse(text: &str) -> Result<RunConfig, Error> {
    RunConfig::from_toml(text, Path::new("run.toml"))
}

/// The error of a file, which must be one of input.
fn refusal(text: &str) -> String {
    let error = parse(text).expect_err(text);
    assert!(error.is_input(), "{text}");
    error.to_string()
}

fn with_flags(flags: &[(&str, &str)]) -> Result<RunConfig, Error> {
    let flags: Vec<_> = flags.iter().map(|(name, text)| (Key::find(name).expect(name), text.to_string())).collect();
    RunConfig::assemble(None, &flags)
}

/// A file with another value than the default for every key.
const EVERYTHING: &str = r#"
model = "models/a"
data = "train.jsonl"
eval_data = "test.jsonl"
output_dir = "runs/a"
method = "lora"
template = "chat"
seed = 7
init_adapter = "runs/b"
resume_from_checkpoint = "runs/a/checkpoint-5"

[lora]
r = 8
lora_alpha = 4.5
lora_dropout = 0
target_modules = "all-linear"
use_rslora = true
use_dora = true
init_lora_weights = "gaussian"
rank_pattern = { q_proj = 4, "layers.0.mlp.up_proj" = 2 }
alpha_pattern = { q_proj = 8 }

[quantization]
bnb_4bit_quant_type = "fp4"
bnb_4bit_use_double_quant = false
bnb_4bit_compute_dtype = "float32"

[sft]
num_train_epochs = 0.5
max_steps = 20
per_device_train_batch_size = 1
gradient_accumulation_steps = 2
learning_rate = 1e-3
lr_scheduler_type = "constant_with_warmup"
warmup_ratio = 1
max_grad_norm = 0
weight_decay = 0.1
adam_beta1 = 0.8
adam_beta2 = 0.99
adam_epsilon = 1e-6
max_length = 64
packing = false
completion_only_loss = true
shuffle = false
gradient_checkpointing = false
neftune_noise_alpha = 5
loraplus_lr_ratio = 16
logging_steps = 1
eval_strategy = "steps"
eval_steps = 5
save_strategy = "no"
save_steps = 6
save_total_limit = 1
"#;

#[test]
fn every_key_is_read_and_written() {
    let config = parse(EVERYTHING).unwrap();
    for key in KEYS.iter().filter(|key| key.table != Table::PromptTuning) {
        assert_ne!(key.value(&config), key.default(), "`{}` was not read", key.name);
    }
    assert_eq!(config.method, Method::Lora);
    assert_eq!(config.template, TemplateName::Chat);
    assert_eq!(config.resume_from_checkpoint, Some(Resume::From("runs/a/checkpoint-5".into())));
    assert_eq!(config.lora.lora_alpha, 4.5);
    assert_eq!(config.lora.target_modules, TargetModules::AllLinear);
    assert_eq!(config.lora.init_lora_weights, Init::Gaussian);
    assert_eq!(config.lora.rank_for("model.layers.0.mlp.up_proj"), 2);
    assert_eq!(config.quantization.bnb_4bit_quant_type, Some(QuantType::Fp4));
    assert_eq!(config.quantization.bnb_4bit_compute_dtype, ComputeDtype::Float32);
    assert_eq!(config.sft.lr_scheduler_type, SchedulerType::ConstantWithWarmup);
    assert_eq!(config.sft.eval_strategy, Strategy::Steps);
    assert_eq!(config.sft.max_steps, Some(20));

    assert_eq!(parse(&config.to_toml()).unwrap(), config);
    assert_eq!(config.to_toml().trim(), parse(&config.to_toml()).unwrap().to_toml().trim());
}

#[test]
fn a_run_that_tunes_a_prompt_is_read_and_written() {
    let text = "method = \"prompt-tuning\"\n[prompt_tuning]\nnum_virtual_tokens = 8\nprompt_tuning_init = \"TEXT\"\n\
                prompt_tuning_init_text = \"Ghi đơn\"";
    let config = parse(text).unwrap();
    let expected = PromptTuningConfig {
        num_virtual_tokens: 8,
        prompt_tuning_init: PromptInit::Text,
        prompt_tuning_init_text: Some("Ghi đơn".into()),
    };
    assert_eq!((config.method, &config.prompt_tuning), (Method::PromptTuning, &expected));
    assert_eq!(parse(&config.to_toml()).unwrap(), config);
    let plain = parse("method = \"prompt-tuning\"").unwrap();
    assert_eq!(plain.prompt_tuning, PromptTuningConfig::default());
    assert_eq!(parse(&plain.to_toml()).unwrap(), plain);
    assert!(!RunConfig::default().to_toml().contains("prompt_tuning"));
}

#[test]
fn what_is_left_out_has_the_documented_default() {
    let documented = r#"
        model = "smollm2-135m"
        method = "qlora"
        seed = 0
        resume_from_checkpoint = "auto"
        [lora]
        r = 16
        lora_alpha = 32
        lora_dropout = 0.05
        target_modules = ["q_proj","k_proj","v_proj","o_proj","gate_proj","up_proj","down_proj"]
        use_rslora = false
        use_dora = false
        init_lora_weights = true
        [quantization]
        bnb_4bit_quant_type = "nf4"
        bnb_4bit_use_double_quant = true
        bnb_4bit_compute_dtype = "bfloat16"
        [sft]
        num_train_epochs = 3
        max_steps = -1
        per_device_train_batch_size = 2
        gradient_accumulation_steps = 4
        learning_rate = 2e-4
        lr_scheduler_type = "cosine"
        warmup_ratio = 0.03
        max_grad_norm = 0.3
        weight_decay = 0.0
        adam_beta1 = 0.9
        adam_beta2 = 0.999
        adam_epsilon = 1e-8
        max_length = 1024
        packing = true
        completion_only_loss = false
        shuffle = true
        gradient_checkpointing = true
        logging_steps = 10
        eval_strategy = "epoch"
        eval_steps = 100
        save_strategy = "epoch"
        save_steps = 500
        save_total_limit = 3
    "#;
    assert_eq!(parse(documented).unwrap(), RunConfig::default());
    assert_eq!(parse("").unwrap(), RunConfig::default());
}

#[test]
fn an_unknown_key_names_the_nearest_one_and_its_line() {
    for (text, message) in [
        (
            "[lora]\nr = 8\nlora_alfa = 16\n",
            "unknown key `lora_alfa` in `run.toml`, line 3, table `[lora]`. Rename it to `lora_alpha`, the nearest key.",
        ),
        (
            "# a comment\n\nmodell = \"a\"\n",
            "unknown key `modell` in `run.toml`, line 3. Rename it to `model`, the nearest key.",
        ),
        (
            "[sft]\nbatch_size = 1\n",
            "unknown key `batch_size` in `run.toml`, line 2, table `[sft]`. Rename it to `per_device_train_batch_size`, \
             the nearest key.",
        ),
        (
            "learning_rate = 1e-4\n",
            "unknown key `learning_rate` in `run.toml`, line 1. Move it into the table `[sft]`.",
        ),
        (
            "[sft]\nseed = 1\n",
            "unknown key `seed` in `run.toml`, line 2, table `[sft]`. Move it to the top of the file, before the first \
             table.",
        ),
        (
            "[lora]\nuse_dubble_quant = true\n",
            "unknown key `use_dubble_quant` in `run.toml`, line 2, table `[lora]`. Rename it to \
             `bnb_4bit_use_double_quant`, the nearest key, and move it into the table `[quantization]`.",
        ),
        (
            "[quantisation]\nr = 1\n",
            "unknown table `[quantisation]` in `run.toml`, line 1. Rename it to `[quantization]`, the nearest table.",
        ),
    ] {
        assert_eq!(refusal(text), message);
    }
}

#[test]
fn a_value_out_of_range_names_its_key_and_line() {
    for (text, message) in [
        ("[lora]\nr = 0", "`r` is `0` in `run.toml`, line 2, table `[lora]`. It must be a whole number of at least 1."),
        (
            "[lora]\nr = 1.5",
            "`r` is `1.5` in `run.toml`, line 2, table `[lora]`. It must be a whole number of at least 1.",
        ),
        (
            "[lora]\nr = \"8\"",
            "`r` is `\"8\"` in `run.toml`, line 2, table `[lora]`. It must be a whole number of at least 1.",
        ),
        (
            "[lora]\nlora_dropout = 1",
            "`lora_dropout` is `1` in `run.toml`, line 2, table `[lora]`. It must be a number from 0 up to, but not \
             including, 1.",
        ),
        (
            "[prompt_tuning]\nnum_virtual_tokens = 8",
            "there are settings for prompt tuning although `method` is another in `run.toml`, line 2, table \
             `[prompt_tuning]`. Leave `[prompt_tuning]` out, or set `method` to `\"prompt-tuning\"`.",
        ),
        (
            "[lora]\ninit_lora_weights = \"pissa\"",
            "this version has no PiSSA: `init_lora_weights = \"pissa\"` in `run.toml`, line 2, table `[lora]`. Use `true` \
             or `\"gaussian\"`.",
        ),
        (
            "[quantization]\nbnb_4bit_quant_type = \"none\"",
            "`bnb_4bit_quant_type` is `\"none\"` although `method` is `\"qlora\"` in `run.toml`, line 2, table \
             `[quantization]`. Set it to `\"nf4\"`, or `method` to `\"lora\"`.",
        ),
        ("lora = 3", "`lora` is `3` in `run.toml`, line 1. It must be a table: begin it with a line `[lora]`."),
    ] {
        assert_eq!(refusal(text), message);
    }
}

#[test]
fn values_that_cannot_be_used_are_refused() {
    let bad = [
        ("seed", "-1"),
        ("model", "''"),
        ("output_dir", "7"),
        ("method", "'sft'"),
        ("template", "'vicuna'"),
        ("resume_from_checkpoint", "true"),
        ("lora_alpha", "0"),
        ("lora_alpha", "nan"),
        ("lora_dropout", "-0.1"),
        ("target_modules", "[]"),
        ("target_modules", "'q_proj'"),
        ("target_modules", "['']"),
        ("target_modules", "['q_proj', 3]"),
        ("use_rslora", "'yes'"),
        ("init_lora_weights", "false"),
        ("init_lora_weights", "'olora'"),
        ("rank_pattern", "{ q_proj = 0 }"),
        ("rank_pattern", "{ '.*q_proj' = 2 }"),
        ("alpha_pattern", "{ q_proj = -1 }"),
        ("bnb_4bit_quant_type", "'int8'"),
        ("bnb_4bit_compute_dtype", "'float16'"),
        ("num_train_epochs", "0"),
        ("max_steps", "0"),
        ("max_steps", "-2"),
        ("per_device_train_batch_size", "0"),
        ("gradient_accumulation_steps", "0"),
        ("learning_rate", "0"),
        ("learning_rate", "inf"),
        ("learning_rate", "'2e-4'"),
        ("lr_scheduler_type", "'polynomial'"),
        ("warmup_ratio", "1.5"),
        ("max_grad_norm", "-1"),
        ("weight_decay", "-0.1"),
        ("adam_beta1", "1"),
        ("adam_beta2", "1.0"),
        ("adam_epsilon", "0"),
        ("max_length", "1"),
        ("packing", "1"),
        ("logging_steps", "0"),
        ("eval_strategy", "'never'"),
        ("eval_steps", "0"),
        ("save_steps", "0"),
        ("save_total_limit", "0"),
    ];
    for (name, value) in bad {
        let key = Key::find(name).expect(name);
        let table = key.table.name().map(|table| format!("[{table}]\n")).unwrap_or_default();
        let message = refusal(&format!("{table}{name} = {value}"));
        let line = if key.table == Table::Run { "line 1" } else { "line 2" };
        assert!(message.contains(&format!("`{name}")) && message.contains(line), "{name} = {value}: {message}");
        assert!(message.ends_with('.') && !message.contains('\n'), "{message}");
    }
}

#[test]
fn a_file_that_is_no_toml_names_the_line() {
    let message = refusal("model = \"a\"\n[lora]\nr = = 3\n");
    assert!(message.starts_with("`run.toml`, line 3: "), "{message}");
    let message = refusal("[lora]\nr = 8\nr = 9\n");
    assert!(message.starts_with("`run.toml`, line 3: "), "{message}");

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("latin1.toml");
    std::fs::write(&path, b"seed = 1\nmodel = \"caf\xe9\"\n").unwrap();
    let message = RunConfig::assemble(Some(&path), &[]).unwrap_err().to_string();
    assert!(message.contains("latin1.toml`, line 2: the text is not UTF-8"), "{message}");
}

#[test]
fn flags_are_read_by_their_keys_types_and_win() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.toml");
    std::fs::write(&path, "data = \"a.jsonl\"\n[sft]\nlearning_rate = 1e-3\npacking = true\n").unwrap();
    let flags = [("learning_rate", "5e-5"), ("packing", "false"), ("output_dir", "2024-01-01")];
    let flags = flags.map(|(name, text)| (Key::find(name).unwrap(), text.to_owned()));
    let config = RunConfig::assemble(Some(&path), &flags).unwrap();
    assert_eq!(config.sft.learning_rate, 5e-5);
    assert!(!config.sft.packing);
    assert_eq!(config.output_dir, Path::new("2024-01-01"));
    assert_eq!(config.data, "a.jsonl");

    let names = |list: &[&str]| TargetModules::Names(list.iter().map(|s| s.to_string()).collect());
    for (text, expected) in [
        ("q_proj, v_proj", names(&["q_proj", "v_proj"])),
        ("q_proj", names(&["q_proj"])),
        ("[\"k_proj\"]", names(&["k_proj"])),
        ("all-linear", TargetModules::AllLinear),
    ] {
        assert_eq!(with_flags(&[("target_modules", text)]).unwrap().lora.target_modules, expected, "{text}");
    }
    assert_eq!(with_flags(&[("max_steps", "-1")]).unwrap().sft.max_steps, None);
    assert_eq!(with_flags(&[("rank_pattern", "{ q_proj = 2 }")]).unwrap().lora.rank_for("q_proj"), 2);
    assert_eq!(with_flags(&[("model", "\"quoted\"")]).unwrap().model, "quoted");

    let message = with_flags(&[("r", "0")]).unwrap_err().to_string();
    assert_eq!(message, "`r` is `0`, flag `--r`. It must be a whole number of at least 1.");
    let message = with_flags(&[("learning_rate", "fast")]).unwrap_err().to_string();
    assert_eq!(message, "`learning_rate` is `\"fast\"`, flag `--learning-rate`. It must be a number above 0.");
}

#[test]
fn a_run_in_code_is_checked_too() {
    let mut config = RunConfig { data: "a".into(), output_dir: "b".into(), ..Default::default() };
    config.validate().unwrap();
    config.lora.r = 0;
    assert_eq!(config.validate().unwrap_err().to_string(), "`r` is `0`. It must be a whole number of at least 1.");

    let message = RunConfig::default().validate().unwrap_err().to_string();
    assert!(message.starts_with("`data` is not set. "), "{message}");
}

#[test]
fn a_folder_with_another_run_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = RunConfig { data: "a".into(), output_dir: dir.path().into(), ..Default::default() };
    config.check_output_dir().unwrap();

    std::fs::write(dir.path().join("adapter_model.safetensors"), b"").unwrap();
    let message = config.check_output_dir().unwrap_err().to_string();
    assert!(message.contains("without a `config.toml`"), "{message}");

    std::fs::write(dir.path().join("config.toml"), config.to_toml()).unwrap();
    config.check_output_dir().unwrap();
    config.sft.num_train_epochs = 5.0;
    config.check_output_dir().unwrap();

    config.lora.r = 4;
    let message = config.check_output_dir().unwrap_err().to_string();
    assert!(message.contains("holds a run whose `r` is `16`, here `4`."), "{message}");

    config.lora.r = 16;
    config.resume_from_checkpoint = None;
    let message = config.check_output_dir().unwrap_err().to_string();
    assert!(message.contains("`resume_from_checkpoint` is false"), "{message}");

    config.output_dir = dir.path().join("config.toml");
    assert!(config.check_output_dir().unwrap_err().to_string().contains("is no folder"));
}

proptest! {
    /// `config.toml` keeps every number to the last bit.
    #[test]
    fn numbers_survive_the_file(rate in 1e-300f64..1e300, epsilon in 1e-12f64..1.0, seed in 0u64..=i64::MAX as u64) {
        let mut config = RunConfig { seed, ..Default::default() };
        config.sft.learning_rate = rate;
        config.sft.adam_epsilon = epsilon;
        prop_assert_eq!(parse(&config.to_toml()).unwrap(), config);
    }
}
