//! What rust-analyzer is told of a compiled prelude.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::{Error, Result};

/// How far from the cells: the prelude, and what it re-exports. Types further down have no names in a cell, and reading all
/// their sources takes longer than everything else when a kernel starts.
const DEPTH: usize = 2;

/// Cargo's answer on the packages of `slot`, without those that cells cannot name.
///
/// Errors: [`Error::Engine`] with cargo's words.
pub(super) fn read(slot: &Path, host: &str) -> Result<String> {
    let mut cargo = Command::new("cargo");
    cargo.args(["metadata", "--format-version", "1", "--offline", "--filter-platform", host]).current_dir(slot);
    let output = cargo.output().map_err(|e| Error::Engine(format!("`cargo` could not be run: {e}")))?;
    let metadata = serde_json::from_slice(&output.stdout).ok();
    let failed = || Error::Engine(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    Ok(nearest(metadata.ok_or_else(failed)?, DEPTH).to_string())
}

/// The packages that are at most `depth` from the root.
fn nearest(mut metadata: Value, depth: usize) -> Value {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut near = BTreeSet::from([text(&metadata["resolve"]["root"])]);
    for _ in 0..depth {
        let nodes = metadata["resolve"]["nodes"].as_array().into_iter().flatten();
        let of_near = nodes.filter(|node| near.contains(&text(&node["id"])));
        let next: Vec<String> =
            of_near.flat_map(|node| node["dependencies"].as_array().into_iter().flatten().map(text)).collect();
        near.extend(next);
    }
    let keep = |list: &mut Value, id: &dyn Fn(&Value) -> String| {
        if let Some(list) = list.as_array_mut() {
            list.retain(|item| near.contains(&id(item)));
        }
    };
    keep(&mut metadata["packages"], &|package| text(&package["id"]));
    keep(&mut metadata["resolve"]["nodes"], &|node| text(&node["id"]));
    for node in metadata["resolve"]["nodes"].as_array_mut().into_iter().flatten() {
        keep(&mut node["dependencies"], &text);
        keep(&mut node["deps"], &|dependency| text(&dependency["pkg"]));
    }
    metadata
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_far_is_left_out() {
        let node = |id: &str, to: &[&str]| {
            let deps: Vec<_> = to.iter().map(|id| json!({"name": id, "pkg": id})).collect();
            json!({"id": id, "dependencies": to, "deps": deps})
        };
        let nodes = [node("ctx", &["a"]), node("a", &["b", "c"]), node("b", &["d"]), node("c", &[]), node("d", &["c"])];
        let packages: Vec<_> = ["ctx", "a", "b", "c", "d"].iter().map(|id| json!({"id": id})).collect();
        let near = nearest(json!({"packages": packages, "resolve": {"root": "ctx", "nodes": nodes}}), 2);
        assert_eq!(near["packages"], json!([{"id": "ctx"}, {"id": "a"}, {"id": "b"}, {"id": "c"}]));
        assert_eq!(near["resolve"]["nodes"][2], node("b", &[]));
    }
}
