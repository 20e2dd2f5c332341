//! A copy of what cargo built, made in no time.

use std::io;
use std::path::Path;

/// Copies a folder, cells excepted. What a compiler made is linked, not copied: it is replaced when it changes, never written
/// to. Times stay, by which cargo knows that nothing has to be built again.
///
/// Errors: a file cannot be read or written.
pub(super) fn clone(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        if is_of_a_cell(&entry.file_name().to_string_lossy()) {
            continue;
        }
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            clone(&path, &to)?;
        } else if kind.is_file() {
            let linked = is_built(&path) && (to.exists() || std::fs::hard_link(&path, &to).is_ok());
            if !linked {
                std::fs::copy(&path, &to)?;
                std::fs::File::open(&to)?.set_modified(entry.metadata()?.modified()?)?;
            }
        }
    }
    Ok(())
}

/// evcxr's names: the crate `ctx`, and a library for each cell, which it writes as it likes.
fn is_of_a_cell(name: &str) -> bool {
    ["libctx.", "libcode_", "ctx-", "incremental"].iter().any(|start| name.starts_with(start))
}

fn is_built(path: &Path) -> bool {
    path.extension().is_some_and(|extension| ["so", "dylib", "rlib", "rmeta", "a"].iter().any(|e| extension == *e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn what_was_built_is_shared_and_the_rest_copied_with_its_time() {
        let folder = tempfile::tempdir().unwrap();
        let [from, to] = ["from", "to"].map(|name| folder.path().join(name));
        std::fs::create_dir_all(from.join("deps")).unwrap();
        for name in ["deps/liba.so", "deps/a.d", "deps/libcode_1.so"] {
            std::fs::write(from.join(name), name).unwrap();
        }
        for _ in 0..2 {
            clone(&from, &to).unwrap();
        }
        let of = |root: &Path, name: &str| std::fs::metadata(root.join(name)).unwrap();
        assert_eq!(of(&from, "deps/liba.so").ino(), of(&to, "deps/liba.so").ino());
        assert_ne!(of(&from, "deps/a.d").ino(), of(&to, "deps/a.d").ino());
        assert!(!to.join("deps/libcode_1.so").exists());
        assert_eq!(of(&from, "deps/a.d").modified().unwrap(), of(&to, "deps/a.d").modified().unwrap());
    }
}
