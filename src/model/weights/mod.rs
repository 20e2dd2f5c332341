//! Where weights come from: safetensors (also bitsandbytes 4-bit) and GGUF, by Hugging Face's names and layout.

use std::path::Path;

use candle_core::{DType, Device, Tensor};

use crate::model::{Config, names};
use crate::quant::{Absmax, Quantized};
use crate::{Error, Result};

pub mod gguf;
pub mod gguf_header;
pub mod safetensors;

/// A checkpoint's weights, read one at a time.
pub trait WeightSource: Send + Sync {
    /// The weights' names, sorted; the parts of a 4-bit weight are one name.
    fn names(&self) -> Vec<String>;

    /// A weight's shape, `[out, in]` for matrices, also where it is stored in 4 bits.
    fn shape(&self, name: &str) -> Option<Vec<usize>>;

    /// A weight as floats of type `dtype` (f32, bf16, f16 or f64) on `device`, decoded where it is stored quantized.
    ///
    /// Errors: [`Error::Tensor`] if it is absent or stored as a type that is no weight's.
    fn tensor(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor>;

    /// `count` rows of a weight from row `start` on, f32 on the CPU: for weights too large to be read as a whole.
    ///
    /// Errors: as [`WeightSource::tensor`]; candle's for rows that the weight lacks.
    fn rows(&self, name: &str, start: usize, count: usize) -> Result<Tensor> {
        Ok(self.tensor(name, DType::F32, &Device::Cpu)?.narrow(0, start, count)?)
    }

    /// A weight that is stored in bitsandbytes' 4 bits, as stored; `None` if it is stored otherwise.
    fn quantized(&self, name: &str) -> Result<Option<Quantized>>;

    /// The file or folder, for messages.
    fn path(&self) -> &Path;
}

/// Checks that every weight of the config's model is there, in its shape; others are left alone.
///
/// Errors: [`Error::Tensor`] for the first that is missing or of another shape.
pub fn check(source: &dyn WeightSource, config: &Config) -> Result<()> {
    for (name, expected) in names::expected(config) {
        match source.shape(&name) {
            Some(shape) if shape == expected => {}
            Some(shape) => {
                let what = format!("its shape is {shape:?}, and the config asks for {expected:?}");
                let hint = "Config and weights belong to different models; copy both from the same one.";
                return Err(Error::tensor(name, source.path(), what, hint));
            }
            None => return Err(missing(&name, source.path())),
        }
    }
    Ok(())
}

/// Checks that a weight holds neither NaN nor infinity; `tensor` may have any float type and be on any device.
///
/// Errors: [`Error::Tensor`] with the first bad element's index.
pub fn check_finite(name: &str, path: &Path, tensor: &Tensor) -> Result<()> {
    check_finite_from(name, path, 0, tensor)
}

/// [`check_finite`] for a part of a weight, of which `first` elements come before.
pub(crate) fn check_finite_from(name: &str, path: &Path, first: usize, tensor: &Tensor) -> Result<()> {
    let values = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    finite(name, path, first, &values)
}

/// Checks that the block scales of a 4-bit weight hold neither NaN nor infinity.
///
/// Errors: [`Error::Tensor`] with the first bad scale's index.
pub fn check_finite_quantized(name: &str, path: &Path, q: &Quantized) -> Result<()> {
    finite(name, path, 0, &q.code)?;
    match &q.absmax {
        Absmax::Plain(scales) => finite(name, path, 0, scales),
        Absmax::Nested { code, absmax, offset, .. } => {
            finite(name, path, 0, code)?;
            finite(name, path, 0, absmax)?;
            finite(name, path, 0, &[*offset])
        }
    }
}

fn finite(name: &str, path: &Path, first: usize, values: &[f32]) -> Result<()> {
    const EXPONENT: u32 = 0x7f80_0000;
    // An exponent of all ones is NaN or infinity. The inner loop has no early exit, so that it vectorizes.
    let bad = |chunk: &[f32]| chunk.iter().fold(false, |bad, v| bad | (v.to_bits() & EXPONENT == EXPONENT));
    match values.chunks(4096).position(bad) {
        None => Ok(()),
        Some(chunk) => {
            let start = chunk * 4096;
            let at = start + values[start..].iter().position(|v| !v.is_finite()).unwrap_or(0);
            let what = format!("element {} is {}", first + at, values[at]);
            Err(Error::tensor(name, path, what, "The weights are damaged; copy them from the model again."))
        }
    }
}

fn missing(name: &str, path: &Path) -> Error {
    Error::tensor(
        name,
        path,
        "it is missing",
        "Config and weights belong to different models, or a file is incomplete.",
    )
}
