//! Folders that a command writes whole.

use std::path::Path;

use ferrotune::Error;

/// Refuses a folder in which something would be overwritten.
pub(crate) fn check_empty(path: &Path) -> Result<(), Error> {
    let what = match std::fs::read_dir(path) {
        Ok(mut entries) => match entries.next() {
            None => return Ok(()),
            Some(_) => format!("`{}` is not empty, and nothing is overwritten", path.display()),
        },
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotADirectory => format!("`{}` is no folder", path.display()),
        Err(e) => return Err(Error::read(path, e)),
    };
    Err(Error::config("flag `--out`", what, "Name a folder that is new or empty."))
}
