//! A run's settings, and the folders that it reads and writes. What a single flag may be is in `errors.rs`.

use std::fs;
use std::path::Path;

use super::ferrotune_in;
use super::spoil::{edit_tensors, nothing, put_tensor, remove, replace, truncate, write};
use super::{Row, TRAIN, row};

const CONFIG: &[&str] = &["train", "--config", "a.toml"];

/// A run of one step in `run`, with its checkpoint.
fn train(dir: &Path) {
    let out = ferrotune_in(dir, TRAIN);
    assert_eq!(out.code, Some(0), "{}", out.stderr);
    assert!(dir.join("run/checkpoint-1").is_dir());
}

pub(super) fn rows() -> Vec<Row> {
    vec![
        // The file.
        row("no config file", nothing, CONFIG, &["could not read `a.toml`"]),
        row(
            "an unknown key",
            |d| write(d, "a.toml", "model = \"model\"\n\n[sft]\nlearning_rat = 1\n"),
            CONFIG,
            &["unknown key `learning_rat` in `a.toml`, line 4, table `[sft]`", "`learning_rate`, the nearest key"],
        ),
        row(
            "an unknown table",
            |d| write(d, "a.toml", "[lorra]\nr = 8\n"),
            CONFIG,
            &["unknown table `[lorra]` in `a.toml`, line 1", "`[lora]`, the nearest table"],
        ),
        row(
            "a key of another table",
            |d| write(d, "a.toml", "r = 8\n"),
            CONFIG,
            &["`r`", "`a.toml`, line 1", "into the table `[lora]`"],
        ),
        row(
            "broken TOML",
            |d| write(d, "a.toml", "model = \"model\"\n[sft\nseed = 1\n"),
            CONFIG,
            &["`a.toml`, line 2", "A config file is TOML"],
        ),
        row(
            "a config file that is not UTF-8",
            |d| write(d, "a.toml", b"model = \"model\"\ndata = \"\xff\"\n"),
            CONFIG,
            &["`a.toml`, line 2", "not UTF-8"],
        ),
        row(
            "a text for a number",
            |d| write(d, "a.toml", "[sft]\nmax_length = \"long\"\n"),
            CONFIG,
            &["`max_length` is `\"long\"` in `a.toml`, line 2", "a whole number of at least 2"],
        ),
        // Values.
        row(
            "rank 0",
            |d| write(d, "a.toml", "[lora]\nr = 0\n"),
            CONFIG,
            &["`r` is `0` in `a.toml`, line 2", "at least 1"],
        ),
        row("a rank above the model's size", nothing, TRAIN, &["the rank 1000000000 is above 64", "`r`", "lower rank"])
            .with(&["--r", "1000000000"]),
        row("learning rate 0", nothing, TRAIN, &["`learning_rate` is `0`", "above 0"]).with(&["--learning-rate", "0"]),
        row("learning rate NaN", nothing, TRAIN, &["`learning_rate` is `nan`", "above 0"])
            .with(&["--learning-rate", "nan"]),
        row(
            "learning rate infinite",
            |d| write(d, "a.toml", "[sft]\nlearning_rate = inf\n"),
            CONFIG,
            &["`learning_rate` is `inf` in `a.toml`, line 2", "above 0"],
        ),
        row(
            "an absent module",
            nothing,
            TRAIN,
            &["no linear module `c_attn`", "`target_modules`", "`q_proj`", "all-linear"],
        )
        .with(&["--target-modules", "q_proj,c_attn"]),
        row("a pattern for a module", nothing, TRAIN, &["`target_modules`", ".*proj", "all-linear"])
            .with(&["--target-modules", ".*proj"]),
        // Where it is written.
        row("an output that is a file", |d| write(d, "run", "x"), TRAIN, &["`output_dir`", "`run`", "no folder"]),
        row(
            "an output below a file",
            |d| write(d, "file", "x"),
            ["train", "--model", "model", "--data", "data.jsonl", "--output-dir", "file/run"],
            &["`output_dir`", "`file/run`", "no folder"],
        ),
        row(
            "an output with another run",
            train,
            TRAIN,
            &["`run` holds a run whose `r` is `16`, here `8`", "another `output_dir`"],
        )
        .with(&["--r", "8"]),
        row(
            "a run that is not to be gone on with",
            train,
            TRAIN,
            &["`run` holds a run", "`resume_from_checkpoint` is false"],
        )
        .with(&["--resume-from-checkpoint", "false"]),
        row(
            "an output with a foreign adapter",
            |d| write(d, "run/adapter_model.safetensors", "x"),
            TRAIN,
            &["`run` holds results without a `config.toml`", "another `output_dir`"],
        ),
        // Where it goes on from.
        row(
            "a checkpoint that is not there",
            nothing,
            TRAIN,
            &["`absent/trainer_state.json`", "A checkpoint is a folder `checkpoint-N`"],
        )
        .with(&["--resume-from-checkpoint", "absent"]),
        row(
            "a folder that is no checkpoint",
            nothing,
            TRAIN,
            &["`adapter/trainer_state.json`", "A checkpoint is a folder `checkpoint-N`"],
        )
        .with(&["--resume-from-checkpoint", "adapter"]),
        row(
            "a checkpoint that is not whole",
            |d| {
                train(d);
                fs::rename(d.join("run"), d.join("old")).unwrap();
                truncate(d, "old/checkpoint-1/optimizer.safetensors", 50);
            },
            TRAIN,
            &["`old/checkpoint-1/optimizer.safetensors`", "were written", "an older checkpoint"],
        )
        .with(&["--resume-from-checkpoint", "old/checkpoint-1"]),
        row(
            "a checkpoint of other shapes",
            |d| {
                train(d);
                fs::rename(d.join("run"), d.join("old")).unwrap();
            },
            TRAIN,
            &["old/checkpoint-1", "[16, 32]", "[8, 32]", "the settings that the run was started with"],
        )
        .with(&["--resume-from-checkpoint", "old/checkpoint-1", "--r", "8"]),
        row(
            "a checkpoint with a broken state",
            |d| {
                train(d);
                fs::rename(d.join("run"), d.join("old")).unwrap();
                replace(d, "old/checkpoint-1/trainer_state.json", b"\"global_step\": 1", b"\"global_step\": x");
            },
            TRAIN,
            &["`old/checkpoint-1/trainer_state.json`, line 2", "an older checkpoint"],
        )
        .with(&["--resume-from-checkpoint", "old/checkpoint-1"]),
        // The adapter that it starts from.
        row("no adapter to start from", |d| remove(d, "adapter"), TRAIN, &["`adapter/adapter_config.json`"])
            .with(&["--init-adapter", "adapter"]),
        row(
            "an adapter to start from that is not finite",
            |d| {
                let key = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight";
                put_tensor(d, "adapter/adapter_model.safetensors", key, f32::NAN, (4, 32));
            },
            TRAIN,
            &["mlp.up_proj.lora_A.weight", "`adapter/adapter_model.safetensors`", "not finite"],
        )
        .with(&["--init-adapter", "adapter"]),
        // What shows only in its steps.
        row(
            "an adapter to start from that cannot learn",
            |d| {
                edit_tensors(d, "adapter/adapter_model.safetensors", |tensors| {
                    for tensor in tensors.values_mut() {
                        *tensor = tensor.zeros_like().unwrap();
                    }
                });
            },
            [&TRAIN[..TRAIN.len() - 2], &["--init-adapter", "adapter", "--max-steps", "8"]].concat(),
            &["received no gradient", "that the initial adapter is not all zeros"],
        )
        .while_running(),
        row(
            "a learning rate that diverges",
            nothing,
            [&TRAIN[..TRAIN.len() - 2], &["--max-steps", "8", "--learning-rate", "1e30", "--warmup-ratio", "0"]]
                .concat(),
            &["of step ", "Lower `learning_rate`"],
        )
        .while_running(),
    ]
}
