//! The header of a GGUF file: metadata, and where each tensor lies.
//!
//! candle's reader trusts a file in a few places (an alignment of 0 divides by it, element counts may wrap, a tensor may lie
//! past the end), so the header is parsed here with every length held against the file's. The tensors are decoded by candle.
//! Source: ggml `docs/gguf.md`, versions 2 and 3, little-endian.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::{TensorInfo, Value};

use crate::{Error, Result};

const MAX_DIMS: usize = 4;
const MAX_DEPTH: usize = 4;
const HINT: &str = "The file is damaged or incomplete; copy or fetch it again.";

/// A parsed header; every tensor is known to lie inside the file.
pub struct Header {
    /// By llama.cpp's keys, such as `llama.block_count`.
    pub metadata: HashMap<String, Value>,
    /// By GGUF names; shapes as `[out, in]`.
    pub tensors: BTreeMap<String, TensorInfo>,
    /// Where tensor data starts, in bytes; the offsets of `tensors` count from there.
    pub data_offset: u64,
}

impl Header {
    /// Parses the start of `file`, the whole content; `path` is named in errors.
    ///
    /// Errors: [`Error::Format`] naming the key or tensor at which the file breaks.
    pub fn parse(file: &[u8], path: &Path) -> Result<Self> {
        let mut r = Reader { file, at: 0, path, place: "header".into() };
        if r.take(4)? != b"GGUF" {
            return Err(r.fail("this is not a GGUF file"));
        }
        let version = r.u32()?;
        if !(2..=3).contains(&version) {
            return Err(r.fail(format!("GGUF version {version} is not supported, only 2 and 3 (little-endian)")));
        }
        let (n_tensors, n_keys) = (r.u64()?, r.u64()?);
        let mut metadata = HashMap::new();
        for i in 0..n_keys {
            r.place = format!("metadata entry {i}");
            let key = r.string()?;
            r.place = format!("key `{key}`");
            let kind = r.u32()?;
            let value = r.value(kind, 0)?;
            metadata.insert(key, value);
        }
        let mut tensors = BTreeMap::new();
        for i in 0..n_tensors {
            r.place = format!("tensor entry {i}");
            let name = r.string()?;
            r.place = format!("tensor `{name}`");
            let info = r.tensor_info()?;
            if tensors.insert(name, info).is_some() {
                return Err(r.fail("the name appears twice"));
            }
        }
        r.place = "key `general.alignment`".into();
        let alignment = match metadata.get("general.alignment") {
            None => 32,
            Some(v) => match v.to_u64() {
                Ok(a) if a.is_power_of_two() && a <= 1 << 20 => a,
                _ => return Err(r.fail("the alignment is not a power of two")),
            },
        };
        let data_offset = (r.at as u64).next_multiple_of(alignment);
        for (name, info) in &tensors {
            r.place = format!("tensor `{name}`");
            let end = size_bytes(info).and_then(|size| size.checked_add(info.offset)?.checked_add(data_offset));
            if end.is_none_or(|end| end > file.len() as u64) {
                return Err(r.fail(format!("the tensor ends after the file's end, {} bytes", file.len())));
            }
        }
        Ok(Self { metadata, tensors, data_offset })
    }
}

/// Bytes of a tensor's data; `None` when they overflow or the shape does not divide into the type's blocks.
fn size_bytes(info: &TensorInfo) -> Option<u64> {
    let elements = info.shape.dims().iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
    let (block, bytes) = (info.ggml_dtype.block_size(), info.ggml_dtype.type_size());
    let row = info.shape.dims().last().copied().unwrap_or(1);
    row.is_multiple_of(block).then(|| (elements / block).checked_mul(bytes).map(|b| b as u64))?
}

/// A cursor that never reads past the end and says where it stopped.
struct Reader<'a> {
    file: &'a [u8],
    at: usize,
    path: &'a Path,
    place: String,
}

impl<'a> Reader<'a> {
    fn fail(&self, what: impl Into<String>) -> Error {
        Error::format(self.path, self.place.clone(), what, HINT)
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        match self.at.checked_add(n).and_then(|end| self.file.get(self.at..end)) {
            Some(bytes) => {
                self.at += n;
                Ok(bytes)
            }
            None => Err(self.fail(format!("the file ends early, at {} bytes", self.file.len()))),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn string(&mut self) -> Result<String> {
        let len = self.u64()?;
        let bytes = self.take(usize::try_from(len).unwrap_or(usize::MAX))?;
        match std::str::from_utf8(bytes) {
            // Some writers terminate their strings.
            Ok(text) => Ok(text.trim_end_matches('\0').into()),
            Err(_) => Err(self.fail("a string is not UTF-8")),
        }
    }

    fn value(&mut self, kind: u32, depth: usize) -> Result<Value> {
        Ok(match kind {
            0 => Value::U8(self.array::<1>()?[0]),
            1 => Value::I8(i8::from_le_bytes(self.array()?)),
            2 => Value::U16(u16::from_le_bytes(self.array()?)),
            3 => Value::I16(i16::from_le_bytes(self.array()?)),
            4 => Value::U32(self.u32()?),
            5 => Value::I32(i32::from_le_bytes(self.array()?)),
            6 => Value::F32(f32::from_le_bytes(self.array()?)),
            7 => Value::Bool(self.array::<1>()?[0] != 0),
            8 => Value::String(self.string()?),
            9 if depth < MAX_DEPTH => {
                let (kind, len) = (self.u32()?, self.u64()?);
                // Grows as elements are read, each of which takes a byte or more: a lying length ends the file early.
                let mut values = Vec::new();
                for _ in 0..len {
                    values.push(self.value(kind, depth + 1)?);
                }
                Value::Array(values)
            }
            10 => Value::U64(self.u64()?),
            11 => Value::I64(i64::from_le_bytes(self.array()?)),
            12 => Value::F64(f64::from_le_bytes(self.array()?)),
            other => return Err(self.fail(format!("value type {other} is unknown, or nested too deep"))),
        })
    }

    fn tensor_info(&mut self) -> Result<TensorInfo> {
        let n_dims = self.u32()? as usize;
        if n_dims > MAX_DIMS {
            return Err(self.fail(format!("the tensor has {n_dims} dimensions, more than {MAX_DIMS}")));
        }
        let mut dims = Vec::with_capacity(n_dims);
        for _ in 0..n_dims {
            dims.push(usize::try_from(self.u64()?).unwrap_or(usize::MAX));
        }
        dims.reverse();
        let kind = self.u32()?;
        let ggml_dtype = match kind {
            0 => GgmlDType::F32,
            1 => GgmlDType::F16,
            2 => GgmlDType::Q4_0,
            3 => GgmlDType::Q4_1,
            6 => GgmlDType::Q5_0,
            7 => GgmlDType::Q5_1,
            8 => GgmlDType::Q8_0,
            10 => GgmlDType::Q2K,
            11 => GgmlDType::Q3K,
            12 => GgmlDType::Q4K,
            13 => GgmlDType::Q5K,
            14 => GgmlDType::Q6K,
            30 => GgmlDType::BF16,
            other => {
                let hint = "Use a file of type F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1 or Q2_K to Q6_K.";
                let what = format!("ggml type {other} is not supported");
                return Err(Error::format(self.path, self.place.clone(), what, hint));
            }
        };
        Ok(TensorInfo { ggml_dtype, shape: dims.into(), offset: self.u64()? })
    }
}
