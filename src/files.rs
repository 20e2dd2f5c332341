//! Writing files so that a crash never leaves half of one: a temporary name, synced, renamed.

use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensorError;
use safetensors::tensor::{Dtype, View};
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::{self, File};
use std::path::Path;

/// Writes `bytes` to `path` atomically: whoever reads `path` sees the old content or the new, whole.
///
/// Errors: [`Error::Write`] with `path`; the old content stays.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    replace(path, |temporary| fs::write(temporary, bytes).map_err(|e| Error::write(path, e)))
}

/// Puts what `write` writes to a temporary path in the place of `path`.
fn replace(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = parent.join(format!(".{name}.tmp-{}", std::process::id()));
    let renamed = || {
        File::options().write(true).open(&temporary)?.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_directory(parent)
    };
    write(&temporary).and_then(|()| renamed().map_err(|e| Error::write(path, e))).inspect_err(|_| {
        // The rename did not happen, so the temporary file is nobody's; a failure to remove it changes nothing.
        let _ = fs::remove_file(&temporary);
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

/// A tensor on its way to a file.
#[derive(Clone, Debug)]
pub enum Stored<'a> {
    Tensor(Tensor),
    /// Numbers of a shape, row after row.
    Numbers {
        shape: &'a [usize],
        values: &'a [f32],
    },
}

impl Stored<'_> {
    /// The tensor itself.
    ///
    /// Errors: candle's.
    pub fn to_tensor(&self) -> Result<Tensor> {
        match self {
            Self::Tensor(tensor) => Ok(tensor.clone()),
            Self::Numbers { shape, values } => Ok(Tensor::from_slice(values, *shape, &Device::Cpu)?),
        }
    }
}

impl From<Tensor> for Stored<'_> {
    fn from(tensor: Tensor) -> Self {
        Self::Tensor(tensor)
    }
}

/// Writes `tensors` as a safetensors file, atomically: sorted by name, f32 unless they are f16, bf16, i64 or u8.
///
/// One tensor at a time is turned into bytes, so that what is written is not in memory twice. The metadata is PyTorch's
/// `{"format": "pt"}`, which transformers and PEFT require.
///
/// Errors: [`Error::Write`] with `path`; the old content stays.
pub fn write_safetensors<'a, S: AsRef<str>>(
    path: &Path,
    tensors: impl IntoIterator<Item = (S, Stored<'a>)>,
) -> Result<()> {
    let failed = RefCell::new(None);
    let view = |tensor| Lazy { tensor, failed: &failed };
    let views = tensors.into_iter().map(|(name, tensor)| (name.as_ref().to_owned(), view(tensor)));
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    replace(path, |temporary| {
        safetensors::serialize_to_file(views, Some(metadata), temporary).map_err(|e| match e {
            SafeTensorError::IoError(e) => Error::write(path, e),
            e => Error::Shape { op: "safetensors", what: e.to_string() },
        })?;
        failed.take().map_or(Ok(()), Err)
    })
}

/// A tensor that becomes bytes when they are written; what goes wrong then is kept in `failed`.
struct Lazy<'a, 'f> {
    tensor: Stored<'a>,
    failed: &'f RefCell<Option<Error>>,
}

impl View for Lazy<'_, '_> {
    fn dtype(&self) -> Dtype {
        match &self.tensor {
            Stored::Tensor(tensor) => stored_type(tensor.dtype()),
            Stored::Numbers { .. } => Dtype::F32,
        }
    }

    fn shape(&self) -> &[usize] {
        match &self.tensor {
            Stored::Tensor(tensor) => tensor.dims(),
            Stored::Numbers { shape, .. } => shape,
        }
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(match &self.tensor {
            Stored::Numbers { values, .. } => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Stored::Tensor(tensor) => little_endian(tensor).map(|(_, bytes)| bytes).unwrap_or_else(|e| {
                self.failed.replace(Some(e));
                vec![0; self.data_len()]
            }),
        })
    }

    fn data_len(&self) -> usize {
        self.shape().iter().product::<usize>() * self.dtype().bitsize() / 8
    }
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
