//! huggingface_hub's cache, which this crate shares with `hf download` and transformers.
//!
//! A repository `org/name` lies in `models--org--name` (or `datasets--…`): `refs/<revision>` holds a commit,
//! `snapshots/<commit>/` links to files in `blobs/`, which are named after their hashes.

use std::fs;
use std::path::{Path, PathBuf};

use super::name::Repository;
use crate::{Error, Result, files};

/// A repository's folder in the cache.
pub(super) struct Cached {
    folder: PathBuf,
    locks: PathBuf,
}

impl Cached {
    pub(super) fn new(cache: &Path, repository: &Repository) -> Self {
        let name = format!("{}--{}--{}", repository.kind.plural(), repository.owner, repository.name);
        Self { folder: cache.join(&name), locks: cache.join(".locks").join(name) }
    }

    /// The commit that `revision`, a branch, a tag or a commit, stood for when it was last asked for.
    pub(super) fn commit(&self, revision: &str) -> String {
        let commit = fs::read_to_string(self.folder.join("refs").join(revision)).map(|text| text.trim().to_string());
        let plain = |commit: &String| !commit.is_empty() && commit.chars().all(|c| c.is_ascii_alphanumeric());
        commit.ok().filter(plain).unwrap_or_else(|| revision.into())
    }

    /// The files of a commit.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// Where a file with this hash is kept.
    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    /// Holds off other programs that fetch the same file.
    pub(super) fn lock(&self, etag: &str) -> Result<fs::File> {
        files::create_directory(&self.locks)?;
        let path = self.locks.join(format!("{etag}.lock"));
        let file = fs::File::create(&path).map_err(|e| Error::write(&path, e))?;
        // A file system without locks still holds whole files only: they get their names last.
        let _ = file.lock();
        Ok(file)
    }

    /// Notes what a branch or tag stands for.
    pub(super) fn set_commit(&self, revision: &str, commit: &str) -> Result<()> {
        if revision == commit {
            return Ok(());
        }
        let path = self.folder.join("refs").join(revision);
        files::create_directory(path.parent().unwrap_or(&self.folder))?;
        files::write_atomic(&path, commit.as_bytes())
    }

    /// Puts the blob `etag` into a commit's files as `name`.
    pub(super) fn link(&self, commit: &str, name: &str, etag: &str) -> Result<PathBuf> {
        let path = self.snapshot(commit).join(name);
        let parent = path.parent().unwrap_or(&self.folder);
        files::create_directory(parent)?;
        let depth = name.split('/').count() + 1;
        let target: PathBuf = std::iter::repeat_n("..", depth).collect::<PathBuf>().join("blobs").join(etag);
        let temporary = parent.join(format!(".link-{}-{etag}", std::process::id()));
        let linked = symlink(&target, &self.blob(etag), &temporary).and_then(|()| fs::rename(&temporary, &path));
        linked.map_err(|e| Error::write(&path, e))?;
        Ok(path)
    }
}

#[cfg(unix)]
fn symlink(target: &Path, _blob: &Path, link: &Path) -> std::io::Result<()> {
    let _ = fs::remove_file(link);
    std::os::unix::fs::symlink(target, link)
}

/// Links need a privilege elsewhere; a second copy needs none.
#[cfg(not(unix))]
fn symlink(_target: &Path, blob: &Path, link: &Path) -> std::io::Result<()> {
    fs::copy(blob, link).map(|_| ())
}
