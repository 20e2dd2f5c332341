//! The source files of a compiled prelude, and whether they are what they were.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// A line of time, length and path for each source file that lies outside of cargo's own folders, by what the compiler wrote
/// down, and for their manifests.
pub(super) fn list(target: &Path, prelude: &Path) -> String {
    let mut found = vec![prelude.join("Cargo.toml")];
    let mut folders = vec![target.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "d") {
                let text = std::fs::read_to_string(&path).unwrap_or_default();
                // A rule without dependencies for each source file.
                let names = text.lines().filter_map(|line| line.strip_suffix(':'));
                found.extend(names.map(|name| PathBuf::from(name.replace("\\ ", " "))));
            }
        }
    }
    found.retain(|path| path.is_absolute() && !path.starts_with(target) && !is_cargos(path));
    let manifest = |path: &PathBuf| path.ancestors().map(|folder| folder.join("Cargo.toml")).find(|path| path.exists());
    found.extend(found.iter().filter_map(manifest).collect::<Vec<_>>());
    found.sort();
    found.dedup();
    found.iter().filter_map(|path| state(path)).map(|line| line + "\n").collect()
}

/// Whether every file of a list is as it was.
pub(super) fn unchanged(list: &str) -> bool {
    list.lines().all(|line| {
        let path = line.splitn(3, ' ').nth(2);
        path.and_then(|path| state(Path::new(path))).is_some_and(|now| now == line)
    })
}

/// Time, length and path of a file.
fn state(path: &Path) -> Option<String> {
    let metadata = path.metadata().ok()?;
    let since = metadata.modified().ok()?.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Some(format!("{} {} {}", since.as_nanos(), metadata.len(), path.display()))
}

/// What cargo downloads is never changed.
fn is_cargos(path: &Path) -> bool {
    let parts: Vec<_> = path.components().map(|part| part.as_os_str()).collect();
    let pairs = [["registry", "src"], ["git", "checkouts"]];
    parts.windows(2).any(|pair| pairs.iter().any(|names| pair[0] == names[0] && pair[1] == names[1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(path("target/deps")).unwrap();
        std::fs::create_dir_all(path("my crate/src")).unwrap();
        for name in ["my crate/Cargo.toml", "my crate/src/lib.rs"] {
            std::fs::write(path(name), "").unwrap();
        }
        let source = path("my crate/src/lib.rs");
        let rule = format!("a.so: x\n\n{}:\n/home/u/.cargo/registry/src/i/b/lib.rs:\n", source.display());
        std::fs::write(path("target/deps/a.d"), rule.replace("my crate", "my\\ crate")).unwrap();
        let list = list(&path("target"), &path("my crate"));
        assert!(list.lines().count() == 2 && unchanged(&list), "{list}");
        std::fs::write(&source, "fn f() {}").unwrap();
        assert!(!unchanged(&list));
    }
}
