//! Writing files so that a crash never leaves half of one: a temporary name, synced, renamed.

use crate::{Error, Result};
use candle_core::{DType, Tensor};
use safetensors::tensor::{Dtype, TensorView};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

/// Writes `bytes` to `path` atomically: whoever reads `path` sees the old content or the new, whole.
///
/// Errors: [`Error::Write`] with `path`; the old content stays.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = parent.join(format!(".{name}.tmp-{}", std::process::id()));
    let written = (|| {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_directory(parent)
    })();
    written.map_err(|e| {
        // The rename did not happen, so the temporary file is nobody's; a failure to remove it changes nothing.
        let _ = fs::remove_file(&temporary);
        Error::write(path, e)
    })
}

/// Makes a rename inside `directory` durable.
///
/// Errors: the operating system's, where directories can be opened at all (not on Windows).
pub fn sync_directory(directory: &Path) -> std::io::Result<()> {
    if cfg!(unix) { File::open(directory)?.sync_all() } else { Ok(()) }
}

/// Creates `directory` and its parents.
///
/// Errors: [`Error::Write`] with `directory`.
pub fn create_directory(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).map_err(|e| Error::write(directory, e))
}

/// Reads a whole file.
///
/// Errors: [`Error::Read`] with `path`.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|e| Error::read(path, e))
}

/// The bytes of a safetensors file that holds `tensors`, sorted by name, f32 unless they are f16, bf16, i64 or u8.
///
/// The metadata is PyTorch's `{"format": "pt"}`, which transformers and PEFT require.
pub fn safetensors_bytes<S: AsRef<str>>(tensors: &[(S, Tensor)]) -> Result<Vec<u8>> {
    let mut owned = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let (dtype, bytes) = little_endian(tensor)?;
        owned.push((name.as_ref().to_string(), dtype, tensor.dims().to_vec(), bytes));
    }
    let mut views = Vec::with_capacity(owned.len());
    for (name, dtype, shape, bytes) in &owned {
        let view = TensorView::new(*dtype, shape.clone(), bytes)
            .map_err(|e| Error::Shape { op: "safetensors", what: format!("`{name}`: {e}") })?;
        views.push((name.as_str(), view));
    }
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    safetensors::serialize(views, Some(metadata)).map_err(|e| Error::Shape { op: "safetensors", what: e.to_string() })
}

/// The type under which safetensors stores a tensor: its own where [`little_endian`] keeps it, else f32.
pub fn stored_type(dtype: DType) -> Dtype {
    match dtype {
        DType::U8 => Dtype::U8,
        DType::I64 => Dtype::I64,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        _ => Dtype::F32,
    }
}

/// A tensor's elements as safetensors stores them: row-major, little-endian.
pub fn little_endian(tensor: &Tensor) -> Result<(Dtype, Vec<u8>)> {
    let flat = tensor.flatten_all()?;
    Ok(match tensor.dtype() {
        DType::U8 => (Dtype::U8, flat.to_vec1::<u8>()?),
        DType::I64 => (Dtype::I64, flat.to_vec1::<i64>()?.iter().flat_map(|v| v.to_le_bytes()).collect()),
        DType::F16 => (Dtype::F16, flat.to_vec1::<half::f16>()?.iter().flat_map(|v| v.to_le_bytes()).collect()),
        DType::BF16 => (Dtype::BF16, flat.to_vec1::<half::bf16>()?.iter().flat_map(|v| v.to_le_bytes()).collect()),
        _ => {
            let values = flat.to_dtype(DType::F32)?.to_vec1::<f32>()?;
            (Dtype::F32, values.iter().flat_map(|v| v.to_le_bytes()).collect())
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_whole_files_and_leaves_no_temporary() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_names_the_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("absent/a.txt");
        let error = write_atomic(&path, b"x").unwrap_err();
        assert!(error.to_string().contains("absent/a.txt"), "{error}");
    }
}
