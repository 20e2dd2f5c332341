//! Models in Hugging Face's own cache, where `hf download` and transformers put them.
//!
//! A repository `org/name` lies in `models--org--name`: `refs/main` holds a commit, `snapshots/<commit>` its files.

use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// The folder of huggingface_hub's files: `HF_HOME`, else `huggingface` in the user's cache; `None` if no variable says where
/// that is.
pub fn hf_home() -> Option<PathBuf> {
    set("HF_HOME")
        .or_else(|| Some(set("XDG_CACHE_HOME")?.join("huggingface")))
        .or_else(|| Some(set("HOME")?.join(".cache/huggingface")))
}

/// A variable's path, unless it is empty.
fn set(key: &str) -> Option<PathBuf> {
    std::env::var_os(key).filter(|v| !v.is_empty()).map(PathBuf::from)
}

/// `HF_HUB_CACHE` or `HUGGINGFACE_HUB_CACHE`, else `hub` in [`hf_home`].
///
/// Errors: [`Error::Config`] if none of their variables is set.
pub(super) fn cache_dir() -> Result<PathBuf> {
    set("HF_HUB_CACHE")
        .or_else(|| set("HUGGINGFACE_HUB_CACHE"))
        .or_else(|| Some(hf_home()?.join("hub")))
        .ok_or_else(|| Error::config("", "there is no home folder to look for models in", "Set `HF_HOME` to one."))
}

/// The folder of `org/name[@revision]`; a revision is a branch, a tag or a commit, `main` if none is given.
///
/// Errors: [`Error::Config`] for a name of another form or a model that is not in the cache.
pub(super) fn snapshot(repository: &str, cache: &Path) -> Result<PathBuf> {
    let (id, revision) = repository.split_once('@').unwrap_or((repository, "main"));
    // Each part becomes a folder's name, so it may hold nothing that leads elsewhere.
    let plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(['/', '\\', '\0']);
    let valid = match id.split_once('/') {
        Some((org, name)) => plain(org) && plain(name) && revision.split('/').all(plain),
        None => false,
    };
    if !valid {
        let what = format!("`hf:{repository}` is not the name of a model");
        return Err(Error::config("", what, "Write it as `hf:org/name` or `hf:org/name@revision`."));
    }
    let model = cache.join(format!("models--{}", id.replace('/', "--")));
    let commit = std::fs::read_to_string(model.join("refs").join(revision)).map(|text| text.trim().to_string());
    let commit = commit.ok().filter(|commit| plain(commit)).unwrap_or_else(|| revision.into());
    let snapshot = model.join("snapshots").join(commit);
    if snapshot.join("config.json").exists() {
        return Ok(snapshot);
    }
    let what = format!(
        "the model `hf:{repository}` is not in Hugging Face's cache (`{}`), and downloading from the Hub is not \
         available in this version",
        cache.display()
    );
    let flag = if revision == "main" { String::new() } else { format!(" --revision {revision}") };
    Err(Error::config("", what, format!("Download it with `hf download {id}{flag}`, then run this again.")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_are_found_by_branch_and_by_commit() -> Result<(), Box<dyn std::error::Error>> {
        let cache = tempfile::tempdir()?;
        let model = cache.path().join("models--org--tiny.model");
        let snapshot_dir = model.join("snapshots/0123abcd");
        std::fs::create_dir_all(&snapshot_dir)?;
        std::fs::create_dir_all(model.join("refs/pr"))?;
        std::fs::write(snapshot_dir.join("config.json"), "{}")?;
        std::fs::write(model.join("refs/main"), "0123abcd\n")?;
        std::fs::write(model.join("refs/pr/1"), "0123abcd")?;
        for name in ["org/tiny.model", "org/tiny.model@main", "org/tiny.model@pr/1", "org/tiny.model@0123abcd"] {
            assert_eq!(snapshot(name, cache.path())?, snapshot_dir, "{name}");
        }
        Ok(())
    }

    #[test]
    fn what_is_not_there_says_how_to_get_it() -> Result<(), Box<dyn std::error::Error>> {
        let cache = tempfile::tempdir()?;
        let error = snapshot("org/name@v2", cache.path()).err().ok_or("found a model in an empty cache")?;
        assert!(error.is_input() && error.to_string().contains("`hf download org/name --revision v2`"), "{error}");
        for bad in ["name", "../x", "org/..", "org/a/b", "org/a@../../x", "org/", ""] {
            let error = snapshot(bad, cache.path()).err().ok_or(bad)?;
            assert!(error.to_string().contains("is not the name of a model"), "{bad}: {error}");
        }
        Ok(())
    }
}
