//! Makes each file of `lessons/cells` a module of the program that runs lessons, with a call where a cell begins and ends.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

#[allow(dead_code, unreachable_pub, reason = "the library uses the rest of it")]
#[path = "src/source.rs"]
mod source;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lessons/cells");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo runs this")?);
    println!("cargo::rerun-if-changed={}", folder.display());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&folder)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        println!("cargo::rerun-if-changed={}", path.display());
        let name = path.file_stem().and_then(|stem| stem.to_str()).ok_or("a file in `lessons/cells` has no name")?;
        let text = std::fs::read_to_string(&path)?;
        let cells = source::cells(&text).map_err(|what| format!("`lessons/cells/{name}.rs`: {what}."))?;
        std::fs::write(out.join(format!("{name}.rs")), with_calls(&text, &cells))?;
        names.push(name.to_owned());
    }
    names.sort();
    let mut list = String::new();
    for name in &names {
        writeln!(list, "#[path = {:?}] mod {name};", out.join(format!("{name}.rs")))?;
    }
    let rows: String = names.iter().map(|name| format!("({name:?}, {name}::lesson), ")).collect();
    writeln!(list, "const LESSONS: &[(&str, Lesson)] = &[{rows}];")?;
    std::fs::write(out.join("lessons.rs"), list)?;
    Ok(())
}

/// Why [`with_calls`] may add code that is never reached.
const REASON: &str = "a cell that fails may end in a return";

/// The calls stand on the anchors' lines, so that every other line keeps its number.
fn with_calls(text: &str, cells: &[source::Cell]) -> String {
    let mut lines = Vec::new();
    for line in text.lines() {
        let words = |prefix| line.trim().strip_prefix(prefix).and_then(|words: &str| words.split_whitespace().next());
        let class = |id: &str| cells.iter().find(|cell| cell.id == id).map(|cell| cell.class).unwrap_or_default();
        let call = match (words("// ANCHOR: "), words("// ANCHOR_END: ")) {
            (Some(id), _) if class(id).raises => format!("crate::begin({id:?}); crate::fails(|| {{"),
            (Some(id), _) if class(id).recorded => format!("crate::begin({id:?}); if crate::elsewhere() {{"),
            (Some(id), _) => format!("crate::begin({id:?});"),
            (_, Some(id)) if class(id).raises => format!("#[allow(unreachable_code, reason = {REASON:?})] Ok(()) }});"),
            (_, Some(id)) if class(id).recorded => "}".into(),
            _ => String::new(),
        };
        lines.push(format!("{call}{line}"));
    }
    lines.join("\n")
}
