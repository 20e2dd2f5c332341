//! The likeliest mistakes: exit code 2, one paragraph, and nothing on stdout.

use std::path::Path;
use std::process::{Command, Stdio};

use super::{ferrotune, ferrotune_in};

/// The one line on stderr of a call that must be refused as wrong input.
fn refusal(dir: &Path, args: &[&str]) -> String {
    let out = ferrotune_in(dir, args);
    assert_eq!(out.code, Some(2), "{args:?}: {}", out.stderr);
    assert_eq!(out.stdout, "", "{args:?}");
    let text = out.stderr.strip_prefix("error: ").unwrap_or_else(|| panic!("{args:?}: {}", out.stderr));
    let text = text.strip_suffix('\n').expect("a line end").to_owned();
    assert!(!text.contains('\n'), "{args:?}: more than one paragraph: {text}");
    text
}

#[test]
fn usage() {
    let dir = tempfile::tempdir().unwrap();
    for (args, message) in [
        (&["trian"][..], "unknown command `trian`. Write `train`, the nearest one."),
        (&["train", "--learning-rat", "1"], "unknown flag `--learning-rat`. Write `--learning-rate`, the nearest one."),
        (&["train", "a.toml"], "unknown argument `a.toml`. `ferrotune train --help` lists what there is."),
        (&["train", "--seed"], "`--seed` needs a value. `ferrotune train --help` lists what there is."),
        (&["train", "--data", "a", "--data", "b"], "`--data` is given twice. Give it once."),
        (&["eval", "--data", "a"], "`--model` must be given. `ferrotune eval --help` lists what there is."),
        (
            &["logits", "--model", "a"],
            "`--ids` and `--out` must be given. `ferrotune logits --help` lists what there is.",
        ),
        (
            &["generate", "--model", "a"],
            "`--prompt` or `--prompts` must be given. `ferrotune generate --help` lists what there is.",
        ),
        (
            &["generate", "--model", "a", "--prompt", "b", "--prompts", "c"],
            "`--prompt` does not go with `--prompts`. Leave one of them out.",
        ),
        (
            &["merge", "--model", "a", "--adapter", "b", "--out", "c", "--dtype", "f8"],
            "`--dtype` is `f8`. Write one of f32, bf16, f16.",
        ),
    ] {
        assert_eq!(refusal(dir.path(), args), message);
    }
    assert!(refusal(dir.path(), &["lab"]).contains("is not in a clone of Ferrotune's repository"));
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = refusal(root, &["lab", "--notebook", "nowhere.ipynb"]);
    assert!(text.starts_with("there is no notebook `nowhere.ipynb`"), "{text}");
}

#[test]
fn settings() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.toml"), "model = \"m\"\n\n[lora]\nlora_alfa = 16\n").unwrap();
    for (args, message) in [
        (
            &["train", "--config", "a.toml"][..],
            "unknown key `lora_alfa` in `a.toml`, line 4, table `[lora]`. Rename it to `lora_alpha`, the nearest key.",
        ),
        (
            &["train", "--config", "b.toml"],
            "could not read `b.toml`: No such file or directory (os error 2). Check that the path is right and can be read.",
        ),
        (&["train", "--r", "0"], "`r` is `0`, flag `--r`. It must be a whole number of at least 1."),
        (
            &["train", "--learning_rate", "0"],
            "`learning_rate` is `0`, flag `--learning-rate`. It must be a number above 0.",
        ),
        (
            &["plan", "--max-length", "1"],
            "`max_length` is `1`, flag `--max-length`. It must be a whole number of at least 2.",
        ),
        (
            &["train", "--method", "prompt-tuning", "--prompt-tuning-init", "TEXT"],
            "`prompt_tuning_init = \"TEXT\"` and `prompt_tuning_init_text` go together, and one of them is missing, flag \
             `--prompt-tuning-init`. Set both, or neither.",
        ),
        (
            &["train", "--method", "full", "--loraplus-lr-ratio", "16"],
            "`loraplus_lr_ratio` is set although `method` trains no adapter, flag `--loraplus-lr-ratio`. Leave it out, or \
             set `method` to `\"lora\"` or `\"qlora\"`.",
        ),
        (
            &["train", "--bnb-4bit-quant-type", "none"],
            "`bnb_4bit_quant_type` is `\"none\"` although `method` is `\"qlora\"`, flag `--bnb-4bit-quant-type`. Set it \
             to `\"nf4\"`, or `method` to `\"lora\"`.",
        ),
        (
            &["train"],
            "`data` is not set. Name a `.json` or `.jsonl` file of training examples with `data` in the config or `--data`.",
        ),
        (
            &["train", "--data", "a.jsonl"],
            "`output_dir` is not set. Name the folder that the run is written to with `output_dir` in the config or \
             `--output-dir`.",
        ),
    ] {
        assert_eq!(refusal(dir.path(), args), message);
    }
}

#[test]
fn doctor_tells_what_there_is_and_no_secret() {
    let out = Command::new(env!("CARGO_BIN_EXE_ferrotune"))
        .arg("doctor")
        .env("HF_TOKEN", "hf_secret")
        .env("FERROTUNE_ISA", "portable")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success());
    for line in [
        "cores ",
        "memory ",
        "instructions  portable",
        "FERROTUNE_ISA=portable",
        "GPU ",
        "Rust ",
        "Python ",
        "set by HF_TOKEN",
    ] {
        assert!(text.contains(line), "no `{line}` in {text}");
    }
    assert!(!text.contains("hf_secret"));
}

#[test]
fn an_instruction_set_that_is_not_there_is_refused() {
    let absent = if cfg!(target_arch = "x86_64") { "neon" } else { "avx2" };
    for (name, what) in [("sse9", "is no instruction set"), (absent, "does not have")] {
        let out = Command::new(env!("CARGO_BIN_EXE_ferrotune"))
            .arg("doctor")
            .env("FERROTUNE_ISA", name)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8(out.stderr).unwrap();
        assert_eq!((out.status.code(), out.stdout.len()), (Some(2), 0), "{name}: {text}");
        assert!(text.contains(what) && text.contains("portable") && text.trim().lines().count() == 1, "{name}: {text}");
    }
}

#[test]
fn a_reader_who_leaves_is_no_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ferrotune"))
        .args(["train", "--help"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(0));
    assert_eq!(String::from_utf8(out.stderr).unwrap(), "");
}

#[test]
fn the_version_is_told() {
    let out = ferrotune(&["--version"]);
    assert_eq!(out.code, Some(0));
    assert_eq!(out.stdout, format!("ferrotune {}\n", env!("CARGO_PKG_VERSION")));
}
