//! Repositories: branches, commits, and which file of a commit has which bytes.

use std::collections::{BTreeMap, HashMap};

use sha1::{Digest, Sha1};

/// The user's token. It has a token's form, and is none.
pub(crate) const TOKEN: &str = "hf_loopback";
/// Files from this size on are large, whatever they are called.
const LARGE: u64 = 10 << 20;
/// Files that are large by their names, as `.gitattributes` of new repositories has them.
const LARGE_NAMES: [&str; 7] = [".safetensors", ".gguf", ".parquet", ".bin", ".pt", ".pth", ".zip"];

/// Whether a file goes by LFS or Xet and not into git.
pub(crate) fn is_large(name: &str, size: u64, sample: &[u8]) -> bool {
    size >= LARGE || LARGE_NAMES.iter().any(|end| name.ends_with(end)) || sample.iter().take(512).any(|byte| *byte == 0)
}

/// A file of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// git's hash of what git has: the bytes, or LFS's pointer to them.
    pub(crate) oid: String,
    pub(crate) size: u64,
    /// SHA-256 of a large file.
    pub(crate) lfs: Option<String>,
}

impl Entry {
    /// Under which name the bytes are kept; also the file's `ETag`.
    pub(crate) fn object(&self) -> &str {
        self.lfs.as_deref().unwrap_or(&self.oid)
    }
}

#[derive(Clone, Default)]
pub(crate) struct Commit {
    pub(crate) files: BTreeMap<String, Entry>,
}

#[derive(Default)]
pub(crate) struct Repository {
    pub(crate) private: bool,
    pub(crate) gated: bool,
    pub(crate) branches: BTreeMap<String, String>,
    pub(crate) commits: HashMap<String, Commit>,
    pub(crate) pull_requests: u64,
}

impl Repository {
    /// The commit of a branch, a pull request or a commit's own name.
    pub(crate) fn commit(&self, revision: &str) -> Option<(&str, &Commit)> {
        let id = self.branches.get(revision).map_or(revision, String::as_str);
        self.commits.get_key_value(id).map(|(id, commit)| (id.as_str(), commit))
    }

    /// Puts a commit onto a branch and returns its name.
    pub(crate) fn add(&mut self, branch: &str, commit: Commit) -> String {
        let mut hash = Sha1::new();
        hash.update(branch);
        hash.update(self.commits.len().to_le_bytes());
        for (name, entry) in &commit.files {
            hash.update(name);
            hash.update(&entry.oid);
        }
        let id: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        self.commits.insert(id.clone(), commit);
        self.branches.insert(branch.into(), id.clone());
        id
    }
}

/// Every repository, by `models/org/name` or `datasets/org/name`.
#[derive(Default)]
pub(crate) struct Store {
    pub(crate) repositories: BTreeMap<String, Repository>,
}

impl Store {
    /// Makes a repository with an empty branch `main`; false if it is there.
    pub(crate) fn create(&mut self, id: &str, private: bool) -> bool {
        if self.repositories.contains_key(id) {
            return false;
        }
        let mut repository = Repository { private, ..Repository::default() };
        repository.add("main", Commit::default());
        self.repositories.insert(id.into(), repository);
        true
    }

    pub(crate) fn put(&mut self, id: &str, branch: &str, files: Vec<(String, Entry)>) {
        self.create(id, false);
        if let Some(repository) = self.repositories.get_mut(id) {
            let mut commit = repository.commit(branch).map(|(_, commit)| commit.clone()).unwrap_or_default();
            commit.files.extend(files);
            repository.add(branch, commit);
        }
    }

    pub(crate) fn gate(&mut self, id: &str) {
        if let Some(repository) = self.repositories.get_mut(id) {
            repository.gated = true;
        }
    }

    pub(crate) fn is_private(&self, id: &str) -> Option<bool> {
        self.repositories.get(id).map(|repository| repository.private)
    }
}
