//! A folder with a model of two small blocks, a tokenizer of one token a character, and data.

use std::path::Path;

use serde_json::{Value, json};

/// The folder: `model/` and `data.jsonl`.
pub(crate) fn workspace() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let model = root.path().join("model");
    std::fs::create_dir(&model).unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/tiny-llama-3.2");
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(golden.join(name), model.join(name)).unwrap();
    }
    std::fs::write(model.join("tokenizer.json"), tokenizer().to_string()).unwrap();
    std::fs::write(model.join("tokenizer_config.json"), json!({"eos_token": "</s>"}).to_string()).unwrap();
    let record = |i: usize| {
        let word = ["tea", "coffee", "milk", "water"][i % 4].repeat(1 + i % 3);
        json!({"instruction": "Upper case.", "input": word, "output": word.to_uppercase()}).to_string()
    };
    let lines: Vec<String> = (0..24).map(record).collect();
    std::fs::write(root.path().join("data.jsonl"), lines.join("\n")).unwrap();
    root
}

/// One token for each printable ASCII character and the line end; ids 1 and 2 are `<s>` and `</s>`.
fn tokenizer() -> Value {
    let characters = (' '..='~').chain(['\n']).map(String::from);
    let tokens = ["<unk>", "<s>", "</s>"].map(str::to_owned).into_iter().chain(characters);
    let vocab: serde_json::Map<_, _> = tokens.enumerate().map(|(id, token)| (token, json!(id))).collect();
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": true})
    };
    json!({
        "version": "1.0",
        "added_tokens": [special(1, "<s>"), special(2, "</s>")],
        "decoder": {"type": "Fuse"},
        "model": {"type": "BPE", "vocab": vocab, "merges": [], "unk_token": "<unk>"},
    })
}
