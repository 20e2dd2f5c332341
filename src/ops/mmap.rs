//! Memory-mapped files: weights are read where they lie, so a checkpoint never has to fit into memory a second time, and
//! what has been read is given back.
//!
//! No operation; it is here because mapping a file is `unsafe`, and this is the folder for that.

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;

use crate::{Error, Result};

/// Maps a file for reading.
///
/// Errors: [`Error::Read`] where `path` is absent, a folder, or not readable.
pub(crate) fn map(path: &Path) -> Result<Mmap> {
    let file = File::open(path).map_err(|e| Error::read(path, e))?;
    if file.metadata().map_err(|e| Error::read(path, e))?.is_dir() {
        return Err(Error::read(path, std::io::Error::from(std::io::ErrorKind::IsADirectory)));
    }
    // SAFETY: a mapping is sound as long as nobody changes or truncates the file while it lives. The map is read-only and
    // never handed out: its readers copy each tensor once, when a model is loaded, and it is dropped after that. No file
    // that this crate maps is ever written by this crate: outputs go to new files that are renamed into place, which
    // leaves a mapped file's content alone. Another program that rewrites a checkpoint in place while it is being loaded
    // is outside of what any reader of mapped weights (safetensors, llama.cpp) can guard against.
    unsafe { Mmap::map(&file) }.map_err(|e| Error::read(path, e))
}

/// Gives the memory of `range`, bytes of the file that have been copied, back to the system: a model that is read once
/// from end to end never is in memory as a whole. What is read again comes from the file again.
pub(crate) fn release(map: &Mmap, range: std::ops::Range<usize>) {
    #[cfg(unix)]
    {
        // The system takes whole pages only: a page that is partly another tensor's costs a page fault later, no more.
        // SAFETY: `DontNeed` drops the pages of a mapping. This one is of a file and cannot be written to, so at the next
        // access they are read from the file again, with the same bytes: whoever holds a reference into the range reads
        // what it read before.
        let advised =
            unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len()) };
        // Advice that is not taken costs memory, and nothing else.
        let _ = advised;
    }
    #[cfg(not(unix))]
    let _ = (map, range);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_bytes_are_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        let bytes: Vec<u8> = (0..100_000u32).map(|i| i as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let map = map(&path).unwrap();
        for range in [0..0, 0..100_000, 5_000..90_001] {
            release(&map, range);
            assert!(map[..] == bytes[..]);
        }
    }
}
