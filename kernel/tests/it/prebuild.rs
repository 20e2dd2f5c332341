//! A prelude is compiled once, and a notebook runs without a frontend.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};

use crate::frontend::{command, toys};

fn run(home: &Path, arguments: &[&str], file: &Path) -> (Output, String) {
    let output =
        command(home).args(arguments).arg("--config").arg(home.join("kernel.toml")).arg(file).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, stderr)
}

fn prebuild(home: &Path) -> String {
    let output = command(home).args(["prebuild", "--config"]).arg(home.join("kernel.toml")).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && output.stdout.starts_with(b"`toys` is compiled"), "{output:?}");
    stderr
}

/// The library of the prebuilt prelude.
fn library(home: &Path) -> PathBuf {
    let mut folders = vec![home.join("cache/ferrotune-kernel/prebuilt")];
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                folders.push(path);
            } else if name.starts_with("libtoys") && name.ends_with(".so") {
                return path;
            }
        }
    }
    panic!("there is no library")
}

fn notebook(cells: &[(&str, &[&str])]) -> String {
    let cell = |(i, (source, tags)): (usize, &(&str, &[&str]))| {
        json!({"cell_type": "code", "id": format!("c{i}"), "metadata": {"tags": tags}, "execution_count": 7,
            "source": [source], "outputs": [{"output_type": "stream", "name": "stdout", "text": ["old"]}]})
    };
    let mut cells: Vec<Value> = cells.iter().enumerate().map(cell).collect();
    cells.insert(1, json!({"cell_type": "markdown", "id": "text", "metadata": {}, "source": ["# Text"]}));
    json!({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}).to_string()
}

#[test]
fn a_prelude_is_compiled_once_and_again_when_it_changes() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    toys(home);
    assert!(prebuild(home).contains("compiling `toys`"));
    let inode = || library(home).metadata().unwrap().ino();
    let first = inode();
    assert!(!prebuild(home).contains("compiling"));
    assert_eq!(inode(), first);

    // A notebook begins with it.
    let file = home.join("a.ipynb");
    let expects = ["raises-exception"];
    let cells: [(&str, &[&str]); 4] = [
        ("println!(\"token hf_not_to_be_seen\"); id()", &[]),
        ("", &[]),
        ("panic!(\"on purpose\")", &expects),
        ("let a = 1;", &[]),
    ];
    std::fs::write(&file, notebook(&cells)).unwrap();
    let (output, stderr) = run(home, &["execute"], &file);
    assert!(output.status.success() && !stderr.contains("compiling"), "{stderr}");
    let read = || serde_json::from_str::<Value>(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let written = read();
    let of = |cell: usize| &written["cells"][cell];
    assert_eq!(of(0)["outputs"][0], json!({"name": "stdout", "output_type": "stream", "text": ["token ***\n"]}));
    assert_eq!(of(0)["outputs"][1]["data"], json!({"text/plain": ["0"]}));
    assert_eq!((&of(0)["execution_count"], &of(2)["execution_count"]), (&json!(1), &Value::Null));
    assert_eq!(of(1)["cell_type"], "markdown");
    assert_eq!(of(3)["outputs"][0]["evalue"], "on purpose");
    assert_eq!(of(4)["outputs"], json!([]));

    // Asked for again, it is the same. Another crate that depends on it shares it, and variables stay.
    std::fs::create_dir_all(home.join("extra/src")).unwrap();
    std::fs::write(home.join("extra/src/lib.rs"), "pub fn next() -> usize { toys::id() }").unwrap();
    let manifest = "[package]\nname = \"extra\"\nedition = \"2024\"\n[dependencies]\ntoys = { path = \"../toys\" }\n";
    std::fs::write(home.join("extra/Cargo.toml"), manifest).unwrap();
    let cells: [(&str, &[&str]); 4] = [
        ("let a = id();", &[]),
        (":dep toys = { path = \"toys\" }\nuse toys::*;\nlet b = id();", &[]),
        (":dep extra = { path = \"extra\" }\nlet c = extra::next();", &[]),
        ("(a, b, c)", &[]),
    ];
    std::fs::write(&file, notebook(&cells)).unwrap();
    let (output, stderr) = run(home, &["execute"], &file);
    assert!(output.status.success(), "{stderr}");
    assert_eq!(read()["cells"][4]["outputs"][0]["data"], json!({"text/plain": ["(0, 1, 2)"]}));

    // A failure ends the run, and so does one that was promised and does not come; what was shown is kept.
    for (cells, what) in [
        ([("println!(\"kept\"); panic!(\"no\")", &[] as &[&str]), ("println!(\"later\");", &[])], "cell 1 of 2"),
        ([("println!(\"kept\");", &expects), ("println!(\"later\");", &[])], "did not fail"),
    ] {
        std::fs::write(&file, notebook(&cells)).unwrap();
        let (output, stderr) = run(home, &["execute"], &file);
        assert!(output.status.code() == Some(1) && stderr.contains(what), "{stderr}");
        let written = read();
        assert_eq!(written["cells"][0]["outputs"][0]["text"], json!(["kept\n"]));
        assert_eq!(written["cells"][2]["outputs"], json!([]));
    }
    std::fs::write(&file, "{").unwrap();
    let (output, stderr) = run(home, &["execute"], &file);
    assert!(output.status.code() == Some(2) && stderr.contains("is no notebook"), "{stderr}");

    std::fs::write(home.join("toys/src/lib.rs"), "pub fn id() -> usize { 77 }").unwrap();
    std::fs::write(&file, notebook(&[("id()", &[]), ("", &[])])).unwrap();
    let (_, stderr) = run(home, &["execute", "--output", home.join("b.ipynb").to_str().unwrap()], &file);
    assert!(stderr.contains("compiling `toys`"), "{stderr}");
    let written = std::fs::read_to_string(home.join("b.ipynb")).unwrap();
    assert!(written.contains("\"77\"") && !read().to_string().contains("\"77\""), "{written}");
    assert_ne!(inode(), first);
}
