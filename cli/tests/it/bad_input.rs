//! Bad input of every kind: exit code 2, one paragraph that says what and where, and nothing changed on disk.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use candle_core::safetensors::{load, save};
use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};

use super::{ferrotune_in, tiny};

/// One mistake: what is done to the folder, the command, and words that the message must have.
struct Case {
    name: &'static str,
    spoil: fn(&Path),
    arguments: &'static [&'static str],
    told: &'static [&'static str],
}

const LOGITS: &[&str] = &["logits", "--model", "model", "--ids", "ids.json", "--out", "out.safetensors"];
const TRAIN: &[&str] =
    &["train", "--model", "model", "--data", "data.jsonl", "--output-dir", "run", "--max-steps", "1"];
const ADAPTED: &[&str] =
    &["logits", "--model", "model", "--adapter", "adapter", "--ids", "ids.json", "--out", "out.safetensors"];

fn case(
    name: &'static str,
    spoil: fn(&Path),
    arguments: &'static [&'static str],
    told: &'static [&'static str],
) -> Case {
    Case { name, spoil, arguments, told }
}

fn write(path: &Path, text: impl AsRef<[u8]>) {
    fs::write(path, text).unwrap();
}

fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    edit(&mut value);
    write(path, value.to_string());
}

fn truncate(path: &Path, keep: usize) {
    let bytes = fs::read(path).unwrap();
    write(path, &bytes[..keep]);
}

/// Changes the tensors of a safetensors file.
fn edit_tensors(path: &Path, edit: impl FnOnce(&mut std::collections::HashMap<String, Tensor>)) {
    let mut tensors = load(path, &Device::Cpu).unwrap();
    edit(&mut tensors);
    save(&tensors, path).unwrap();
}

/// Replaces a safetensors file's header, whatever it claims.
fn replace_header(path: &Path, from: &str, to: &str) {
    let bytes = fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = String::from_utf8(bytes[8..8 + length].to_vec()).unwrap().replacen(from, to, 1);
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.as_bytes());
    out.extend(&bytes[8 + length..]);
    write(path, out);
}

fn cases() -> Vec<Case> {
    vec![
        // The model's files.
        case("absent model", |d| fs::remove_dir_all(d.join("model")).unwrap(), LOGITS, &["could not read `model`"]),
        case(
            "a file that is no model",
            |d| {
                fs::remove_dir_all(d.join("model")).unwrap();
                write(&d.join("model"), "x");
            },
            LOGITS,
            &["`model`", "a folder or a `.gguf` file"],
        ),
        case("absent config", |d| fs::remove_file(d.join("model/config.json")).unwrap(), LOGITS, &["config.json"]),
        case("broken config", |d| truncate(&d.join("model/config.json"), 40), LOGITS, &["config.json", "line"]),
        case(
            "config without a key",
            |d| {
                edit_json(&d.join("model/config.json"), |c| {
                    c.as_object_mut().unwrap().remove("hidden_size");
                })
            },
            LOGITS,
            &["config.json", "`hidden_size`"],
        ),
        case(
            "config with a word for a number",
            |d| edit_json(&d.join("model/config.json"), |c| c["hidden_size"] = json!("big")),
            LOGITS,
            &["config.json", "`hidden_size`"],
        ),
        case(
            "unknown architecture",
            |d| edit_json(&d.join("model/config.json"), |c| c["architectures"] = json!(["MambaForCausalLM"])),
            LOGITS,
            &["config.json", "MambaForCausalLM"],
        ),
        case(
            "heads that do not divide",
            |d| edit_json(&d.join("model/config.json"), |c| c["num_key_value_heads"] = json!(3)),
            LOGITS,
            &["config.json", "num_key_value_heads"],
        ),
        case(
            "unknown rope scaling",
            |d| edit_json(&d.join("model/config.json"), |c| c["rope_parameters"]["rope_type"] = json!("yarn")),
            LOGITS,
            &["config.json", "yarn"],
        ),
        case(
            "absent weights",
            |d| fs::remove_file(d.join("model/model.safetensors")).unwrap(),
            LOGITS,
            &["model", "safetensors"],
        ),
        case("empty weights", |d| write(&d.join("model/model.safetensors"), ""), LOGITS, &["model.safetensors"]),
        case(
            "truncated weights",
            |d| truncate(&d.join("model/model.safetensors"), 9000),
            LOGITS,
            &["model.safetensors"],
        ),
        case(
            "a header longer than the file",
            |d| {
                let p = d.join("model/model.safetensors");
                let mut b = fs::read(&p).unwrap();
                b[..8].copy_from_slice(&u64::MAX.to_le_bytes());
                write(&p, b);
            },
            LOGITS,
            &["model.safetensors"],
        ),
        case(
            "a header that lies about a type",
            |d| replace_header(&d.join("model/model.safetensors"), "\"F32\"", "\"F64\""),
            LOGITS,
            &["model.safetensors"],
        ),
        case(
            "a header that is no JSON",
            |d| replace_header(&d.join("model/model.safetensors"), "{", "["),
            LOGITS,
            &["model.safetensors"],
        ),
        case(
            "a tensor too few",
            |d| {
                edit_tensors(&d.join("model/model.safetensors"), |t| {
                    t.remove("model.norm.weight");
                })
            },
            LOGITS,
            &["`model.norm.weight`", "`model`", "missing"],
        ),
        case(
            "a tensor of another shape",
            |d| {
                edit_tensors(&d.join("model/model.safetensors"), |t| {
                    t.insert("model.norm.weight".into(), Tensor::ones(7, DType::F32, &Device::Cpu).unwrap());
                })
            },
            LOGITS,
            &["`model.norm.weight`", "[7]"],
        ),
        case(
            "NaN in the weights",
            |d| {
                edit_tensors(&d.join("model/model.safetensors"), |t| {
                    t.insert("model.norm.weight".into(), Tensor::full(f32::NAN, 32, &Device::Cpu).unwrap());
                })
            },
            LOGITS,
            &["`model.norm.weight`", "NaN"],
        ),
        case(
            "an index that names an absent shard",
            |d| {
                fs::remove_file(d.join("model/model.safetensors")).unwrap();
                write(
                    &d.join("model/model.safetensors.index.json"),
                    r#"{"weight_map": {"model.norm.weight": "absent.safetensors"}}"#,
                );
            },
            LOGITS,
            &["absent.safetensors"],
        ),
        case(
            "a GGUF file that is none",
            |d| write(&d.join("m.gguf"), "GGUX and more"),
            &["logits", "--model", "m.gguf", "--ids", "ids.json", "--out", "o"],
            &["m.gguf"],
        ),
        case(
            "a truncated GGUF file",
            |d| write(&d.join("m.gguf"), b"GGUF\x03\0\0\0\x05\0\0\0\0\0\0\0\xff\0\0\0\0\0\0\0"),
            &["logits", "--model", "m.gguf", "--ids", "ids.json", "--out", "o"],
            &["m.gguf"],
        ),
        case(
            "a misspelt alias",
            |_| {},
            &["generate", "--model", "smollm2-135", "--prompt", "a"],
            &["`smollm2-135`", "The nearest name is `smollm2-135m`"],
        ),
        case(
            "a model on the Hub only",
            |_| {},
            &["generate", "--model", "hf:org/absent", "--prompt", "a"],
            &["hf:org/absent", "hf download"],
        ),
        case("a name that is none", |_| {}, &["fetch", "hf:../../etc"], &["hf:../../etc", "hf:org/name"]),
        // The tokenizer.
        case(
            "absent tokenizer",
            |d| fs::remove_file(d.join("model/tokenizer.json")).unwrap(),
            TRAIN,
            &["tokenizer.json"],
        ),
        case("broken tokenizer", |d| truncate(&d.join("model/tokenizer.json"), 100), TRAIN, &["tokenizer.json"]),
        case(
            "tokenizer of a larger model",
            |d| edit_json(&d.join("model/tokenizer.json"), |t| t["model"]["vocab"]["Z!"] = json!(9000)),
            TRAIN,
            &["tokenizer.json", "9000"],
        ),
        case(
            "no end of sequence",
            |d| {
                fs::remove_file(d.join("model/tokenizer_config.json")).unwrap();
                edit_json(&d.join("model/config.json"), |c| {
                    c.as_object_mut().unwrap().remove("eos_token_id");
                });
            },
            TRAIN,
            &["end-of-sequence"],
        ),
        // The data.
        case(
            "absent data",
            |d| fs::remove_file(d.join("data.jsonl")).unwrap(),
            TRAIN,
            &["could not read `data.jsonl`"],
        ),
        case("empty data", |d| write(&d.join("data.jsonl"), "\n\n"), TRAIN, &["`data.jsonl`", "no examples"]),
        case(
            "broken JSON on a line",
            |d| {
                write(
                    &d.join("data.jsonl"),
                    "{\"instruction\":\"a\",\"output\":\"b\"}\n{\"instruction\": \"a\", \"outp\n",
                )
            },
            TRAIN,
            &["data.jsonl", "line 2"],
        ),
        case(
            "a record without output",
            |d| write(&d.join("data.jsonl"), "{\"instruction\":\"a\",\"output\":\"b\"}\n\n{\"instruction\":\"a\"}\n"),
            TRAIN,
            &["data.jsonl", "line 3", "`output`"],
        ),
        case(
            "a number for a text",
            |d| write(&d.join("data.jsonl"), "{\"instruction\":7,\"output\":\"b\"}\n"),
            TRAIN,
            &["data.jsonl", "line 1", "`instruction`"],
        ),
        case(
            "a line that is no object",
            |d| write(&d.join("data.jsonl"), "[1, 2]\n"),
            TRAIN,
            &["data.jsonl", "line 1"],
        ),
        case(
            "not UTF-8",
            |d| {
                write(
                    &d.join("data.jsonl"),
                    b"{\"instruction\":\"a\",\"output\":\"b\"}\n{\"instruction\":\"\xff\",\"output\":\"b\"}\n",
                )
            },
            TRAIN,
            &["data.jsonl", "line 2", "UTF-8"],
        ),
        case(
            "a bad row of a JSON array",
            |d| write(&d.join("data.json"), r#"[{"instruction":"a","output":"b"}, {"output":"b"}]"#),
            &["train", "--model", "model", "--data", "data.json", "--output-dir", "run"],
            &["data.json", "row 2", "`instruction`"],
        ),
        case(
            "data of an unknown kind",
            |d| write(&d.join("data.csv"), "a,b"),
            &["train", "--model", "model", "--data", "data.csv", "--output-dir", "run"],
            &["data.csv"],
        ),
        case(
            "data on the Hub",
            |_| {},
            &["train", "--model", "model", "--data", "hf:org/data:train", "--output-dir", "run"],
            &["hf:org/data:train"],
        ),
        case(
            "nothing left to train",
            |_| {},
            &[
                "train",
                "--model",
                "model",
                "--data",
                "data.jsonl",
                "--output-dir",
                "run",
                "--max-length",
                "8",
                "--completion-only-loss",
            ],
            &["data.jsonl", "max_length"],
        ),
        // The settings.
        case(
            "unknown key",
            |d| write(&d.join("a.toml"), "learning_rat = 1\n"),
            &["train", "--config", "a.toml"],
            &["`learning_rat`", "a.toml", "line 1", "learning_rate"],
        ),
        case(
            "broken TOML",
            |d| write(&d.join("a.toml"), "model = \"a\"\n[sft\n"),
            &["train", "--config", "a.toml"],
            &["a.toml", "line 2"],
        ),
        case("rank 0", |_| {}, &["train", "--r", "0"], &["`r` is `0`"]),
        case("NaN for a rate", |_| {}, &["train", "--learning-rate", "nan"], &["`learning_rate`"]),
        case(
            "absent target module",
            |_| {},
            &[
                "train",
                "--model",
                "model",
                "--data",
                "data.jsonl",
                "--output-dir",
                "run",
                "--target-modules",
                "q_proj,c_attn",
            ],
            &["c_attn"],
        ),
        case(
            "output under a file",
            |d| write(&d.join("file"), "x"),
            &["train", "--model", "model", "--data", "data.jsonl", "--output-dir", "file/run", "--max-steps", "1"],
            &["file/run"],
        ),
        case("output that is a file", |d| write(&d.join("run"), "x"), TRAIN, &["`run`", "no folder"]),
        case(
            "resume from nowhere",
            |_| {},
            &[
                "train",
                "--model",
                "model",
                "--data",
                "data.jsonl",
                "--output-dir",
                "run",
                "--resume-from-checkpoint",
                "absent",
            ],
            &["absent"],
        ),
        case(
            "an output that is not empty",
            |d| {
                fs::create_dir(d.join("full")).unwrap();
                write(&d.join("full/a"), "x");
            },
            &["quantize", "--model", "model", "--out", "full"],
            &["`full`", "not empty"],
        ),
        // Adapters.
        case("absent adapter", |d| fs::remove_dir_all(d.join("adapter")).unwrap(), ADAPTED, &["adapter_config.json"]),
        case(
            "truncated adapter",
            |d| truncate(&d.join("adapter/adapter_model.safetensors"), 3000),
            ADAPTED,
            &["adapter_model.safetensors"],
        ),
        case(
            "adapter of another model",
            |d| {
                for f in ["adapter_model.safetensors", "adapter_config.json"] {
                    fs::copy(golden("tiny-llama-2/lora").join(f), d.join("adapter").join(f)).unwrap();
                }
            },
            ADAPTED,
            &["adapter_model.safetensors", "shape"],
        ),
        case(
            "adapter with a key too many",
            |d| {
                edit_tensors(&d.join("adapter/adapter_model.safetensors"), |t| {
                    t.insert("extra".into(), Tensor::ones(1, DType::F32, &Device::Cpu).unwrap());
                })
            },
            ADAPTED,
            &["`extra`", "unexpected"],
        ),
        case(
            "adapter with a key too few",
            |d| {
                edit_tensors(&d.join("adapter/adapter_model.safetensors"), |t| {
                    let key = t.keys().min().unwrap().clone();
                    t.remove(&key);
                })
            },
            ADAPTED,
            &["missing"],
        ),
        case(
            "adapter by DoRA",
            |d| edit_json(&d.join("adapter/adapter_config.json"), |c| c["use_dora"] = json!(true)),
            ADAPTED,
            &["adapter_config.json", "use_dora"],
        ),
        case(
            "adapter of rank 0",
            |d| edit_json(&d.join("adapter/adapter_config.json"), |c| c["r"] = json!(0)),
            ADAPTED,
            &["adapter_config.json", "`r`"],
        ),
        case(
            "an adapter for a model",
            |_| {},
            &["logits", "--model", "adapter", "--ids", "ids.json", "--out", "o"],
            &["adapter", "config.json"],
        ),
        // Ids and prompts.
        case(
            "ids out of range",
            |d| write(&d.join("ids.json"), "[[1, 2], [5, 131]]"),
            LOGITS,
            &["131", "sequence 2", "ids.json"],
        ),
        case("ids that are no lists", |d| write(&d.join("ids.json"), "[1, 2]"), LOGITS, &["ids.json", "line 1"]),
        case("negative ids", |d| write(&d.join("ids.json"), "[[-1]]"), LOGITS, &["ids.json"]),
        case("an empty sequence", |d| write(&d.join("ids.json"), "[[]]"), LOGITS, &["sequence 1", "empty"]),
        case("no sequence", |d| write(&d.join("ids.json"), "[]"), LOGITS, &["ids.json"]),
        case(
            "a broken prompt line",
            |d| write(&d.join("p.jsonl"), "{\"prompt\":\"a\"}\n{\"promt\":\"a\"}\n"),
            &["generate", "--model", "model", "--prompts", "p.jsonl"],
            &["p.jsonl", "line 2"],
        ),
        case("an empty prompt", |_| {}, &["generate", "--model", "model", "--prompt", ""], &["prompt 1"]),
        case(
            "a negative temperature",
            |_| {},
            &["generate", "--model", "model", "--prompt", "a", "--temperature=-1"],
            &["`temperature`"],
        ),
        case("top_p above 1", |_| {}, &["generate", "--model", "model", "--prompt", "a", "--top-p", "2"], &["`top_p`"]),
    ]
}

fn golden(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name)
}

/// Every file below `dir` with its bytes, and every folder.
fn contents(dir: &Path) -> BTreeMap<std::path::PathBuf, Option<Vec<u8>>> {
    let mut all = BTreeMap::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path.clone());
                all.insert(path, None);
            } else {
                let bytes = fs::read(&path).unwrap();
                all.insert(path, Some(bytes));
            }
        }
    }
    all
}

#[test]
fn bad_input_is_refused_in_one_paragraph_and_changes_nothing() {
    let cases = cases();
    assert!(cases.len() >= 30);
    let mut wrong = Vec::new();
    for case in &cases {
        let work = tiny::workspace();
        let dir = work.path();
        fs::create_dir(dir.join("adapter")).unwrap();
        for file in ["adapter_model.safetensors", "adapter_config.json"] {
            fs::copy(golden("tiny-llama-3.2/lora").join(file), dir.join("adapter").join(file)).unwrap();
        }
        write(&dir.join("ids.json"), "[[1, 2, 3]]");
        (case.spoil)(dir);
        let before = contents(dir);
        let out = ferrotune_in(dir, case.arguments);
        let mut complain = |what: String| wrong.push(format!("{}: {what}\n    {}", case.name, out.stderr.trim()));
        if out.code != Some(2) {
            complain(format!("exit code {:?}", out.code));
        }
        if !out.stdout.is_empty() {
            complain(format!("stdout `{}`", out.stdout));
        }
        let paragraph = out.stderr.lines().filter(|line| line.starts_with("error: ")).count() == 1
            && out.stderr.lines().last().is_some_and(|line| line.starts_with("error: "));
        if !paragraph || out.stderr.contains("panicked") || out.stderr.contains("has a bug") {
            complain("not one paragraph".into());
        }
        for words in case.told.iter().filter(|words| !out.stderr.contains(**words)) {
            complain(format!("`{words}` is not told"));
        }
        if contents(dir) != before {
            complain("something on disk changed".into());
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// The same folder without a mistake is no error, so that the cases above fail for their mistakes alone.
#[test]
fn the_unspoilt_folder_is_good() {
    let work = tiny::workspace();
    write(&work.path().join("ids.json"), "[[1, 2, 3]]");
    for arguments in [LOGITS, TRAIN] {
        let out = ferrotune_in(work.path(), arguments);
        assert_eq!(out.code, Some(0), "{}", out.stderr);
    }
}
