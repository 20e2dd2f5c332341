//! What ARCHITECTURE.md and CONTRIBUTING.md promise about the source, held to it.

use std::path::{Path, PathBuf};

/// From the bottom up; a module uses only what stands before it.
const MODULES: [&str; 18] = [
    "error",
    "files",
    "interrupt",
    "device",
    "quant",
    "ops",
    "lora",
    "prompt_tuning",
    "model",
    "data",
    "train",
    "generate",
    "evaluate",
    "decide",
    "hub",
    "show",
    "notebook",
    "experiments",
];
/// The only files with `unsafe` code.
const UNSAFE: [&str; 8] = [
    "src/ops/aligned.rs",
    "src/ops/cpu/product/amx.rs",
    "src/ops/cpu/product/avx512bf16.rs",
    "src/ops/cpu/product/avx512bf16/pack.rs",
    "src/ops/cpu/product/result.rs",
    "src/ops/cpu/rounding.rs",
    "src/ops/cpu/unspecified.rs",
    "src/ops/mmap.rs",
];
const LONGEST_FILE: usize = 800;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below `folder`, with its text.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut folders = vec![root().join(folder)];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                files.push((path.strip_prefix(root()).unwrap().into(), text));
            }
        }
    }
    files.sort();
    assert!(!files.is_empty());
    files
}

/// A file's code, without its comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(|line| line.split("//").next().unwrap_or_default())
}

fn level(module: &str) -> usize {
    MODULES.iter().position(|m| *m == module).unwrap_or_else(|| panic!("`{module}` is not in the list of modules"))
}

#[test]
fn modules_use_only_those_below_them() {
    for (path, text) in sources("src") {
        let module = path.components().nth(1).unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs");
        if module == "lib" {
            continue;
        }
        // Tests at a file's end may use whatever they need.
        let text = text.split("#[cfg(test)]").next().unwrap_or_default();
        let code: String = code(text).collect::<Vec<_>>().join("\n");
        let mut used: Vec<String> = Vec::new();
        for (at, _) in code.match_indices("crate::") {
            let rest = code[at + "crate::".len()..].trim_start();
            let group = rest.strip_prefix('{').map(|group| group.split(['}', ';']).next().unwrap_or_default());
            let names = group.unwrap_or(rest).split(',').map(|name| name.trim());
            let heads =
                names.map(|name| name.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default());
            used.extend(if group.is_some() {
                heads.map(String::from).collect::<Vec<_>>()
            } else {
                heads.take(1).map(String::from).collect()
            });
        }
        for name in used.iter().filter(|name| MODULES.contains(&name.as_str())) {
            assert!(level(name) <= level(module), "`{}` uses `{name}`, which stands above `{module}`", path.display());
        }
    }
}

#[test]
fn unsafe_code_stands_where_it_may_and_says_why_it_is_sound() {
    for (path, text) in sources("src").into_iter().chain(sources("cli/src")) {
        let is_unsafe = |line: &&str| line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == "unsafe");
        let (functions, uses): (Vec<&str>, Vec<&str>) =
            code(&text).filter(is_unsafe).partition(|line| line.contains("unsafe fn"));
        let allowed = UNSAFE.iter().any(|file| Path::new(file) == path);
        assert!(functions.len() + uses.len() == 0 || allowed, "`{}` has `unsafe` code", path.display());
        let said = |words: &str, count: usize| text.matches(words).count() >= count;
        assert!(said("// SAFETY:", uses.len()), "`{}`: each `unsafe` says why it is sound", path.display());
        assert!(said("/// # Safety", functions.len()), "`{}`: each `unsafe fn` says what it asks for", path.display());
    }
}

#[test]
fn files_stay_short_enough_to_read() {
    for folder in ["src", "cli", "tests", "course", "lessons"] {
        for (path, text) in sources(folder) {
            let lines = text.lines().count();
            assert!(lines <= LONGEST_FILE, "`{}` has {lines} lines", path.display());
        }
    }
}

/// What ARCHITECTURE.md names in its paths is there.
#[test]
fn the_map_shows_the_land() {
    for name in ["ARCHITECTURE.md", "CONTRIBUTING.md", "README.md", "README.vi.md"] {
        let text = std::fs::read_to_string(root().join(name)).unwrap();
        for word in text.split('`').skip(1).step_by(2) {
            let path = word.trim_end_matches('/');
            let is_path =
                ["src/", "cli/", "tests/", "datasets/", "course/", "lessons/"].iter().any(|top| path.starts_with(top));
            if is_path && !path.contains(['<', '*', ' ', '{']) {
                assert!(root().join(path).exists(), "{name} names `{path}`, which is not there");
            }
        }
    }
}
