//! Bytes by their hashes, in a folder; a file has its name once it is whole.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::store::Entry;
use crate::xet;

pub(crate) struct Objects {
    folder: PathBuf,
    /// What came by Xet.
    cas: PathBuf,
    temporary: AtomicU64,
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// git's name of a file with these bytes.
fn git_oid(bytes: &[u8]) -> String {
    let mut hash = Sha1::new();
    hash.update(format!("blob {}\0", bytes.len()));
    hash.update(bytes);
    hex(&hash.finalize())
}

impl Objects {
    pub(crate) fn new(folder: &Path) -> io::Result<Self> {
        let objects = folder.join("objects");
        fs::create_dir_all(&objects)?;
        let cas = folder.join("cas");
        for kind in ["xorbs", "shards"] {
            fs::create_dir_all(cas.join(kind))?;
        }
        Ok(Self { folder: objects, cas, temporary: AtomicU64::new(0) })
    }

    pub(crate) fn cas(&self) -> &Path {
        &self.cas
    }

    pub(crate) fn path(&self, object: &str) -> PathBuf {
        self.folder.join(object)
    }

    pub(crate) fn temporary(&self) -> PathBuf {
        self.folder.join(format!(".new-{}", self.temporary.fetch_add(1, Ordering::Relaxed)))
    }

    /// Keeps bytes, as a large file or as git does.
    pub(crate) fn put(&self, bytes: &[u8], large: bool) -> io::Result<Entry> {
        let size = bytes.len() as u64;
        let entry = if large {
            large_entry(&hex(&Sha256::digest(bytes)), size)
        } else {
            Entry { oid: git_oid(bytes), size, lfs: None }
        };
        self.keep(&self.path(entry.object()), bytes)?;
        Ok(entry)
    }

    /// Writes a file as a whole.
    pub(crate) fn keep(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let temporary = self.temporary();
        File::create(&temporary)?.write_all(bytes)?;
        fs::rename(temporary, path)
    }

    /// The large file that a commit names: it came by LFS, or is put together from what came by Xet. `None` if it never came.
    pub(crate) fn large(&self, sha256: &str, size: u64) -> io::Result<Option<Entry>> {
        let path = self.path(sha256);
        if !path.is_file() {
            let temporary = self.temporary();
            if !xet::put_together(&self.cas, sha256, &temporary)? {
                return Ok(None);
            }
            fs::rename(temporary, &path)?;
        }
        Ok((fs::metadata(&path)?.len() == size).then(|| large_entry(sha256, size)))
    }

    pub(crate) fn has(&self, object: &str) -> bool {
        self.path(object).is_file()
    }
}

fn large_entry(sha256: &str, size: u64) -> Entry {
    let pointer = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n");
    Entry { oid: git_oid(pointer.as_bytes()), size, lfs: Some(sha256.into()) }
}
