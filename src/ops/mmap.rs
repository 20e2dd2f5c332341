//! Memory-mapped files: weights are read where they lie, so a checkpoint never has to fit into memory a second time.
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
