//! Weights from a directory with `model.safetensors`, or shards listed by `model.safetensors.index.json`.
//!
//! A linear that bitsandbytes stored in 4 bits is several tensors under one name; `quant` puts them together.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::{Metadata, TensorView};

use super::{WeightSource, missing};
use crate::ops::mmap;
use crate::quant::{self, Quantized};
use crate::{Error, Result, files};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// bitsandbytes' keys, after a weight's name.
const QUANT_STATES: [&str; 2] = [".quant_state.bitsandbytes__nf4", ".quant_state.bitsandbytes__fp4"];
const PARTS: [&str; 4] = [".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map"];
const DAMAGED: &str = "The file is damaged or incomplete; copy or download it again.";

/// The weights of a directory, memory-mapped.
pub struct Safetensors {
    directory: PathBuf,
    shards: Vec<Shard>,
    /// Tensor name to shard.
    tensors: BTreeMap<String, usize>,
}

struct Shard {
    path: PathBuf,
    map: Mmap,
    metadata: Metadata,
    data_start: usize,
}

impl Shard {
    fn open(path: PathBuf) -> Result<Self> {
        let map = mmap::map(&path)?;
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|e| {
            let what = format!("the header does not fit the file's {} bytes ({e})", map.len());
            Error::format(&path, "safetensors header", what, DAMAGED)
        })?;
        Ok(Self { path, map, metadata, data_start: 8 + header })
    }

    /// Stored type, shape and bytes.
    fn view(&self, name: &str) -> Option<(safetensors::Dtype, &[usize], &[u8])> {
        let info = self.metadata.info(name)?;
        let (start, end) = info.data_offsets;
        let bytes = self.map.get(self.data_start + start..self.data_start + end)?;
        Some((info.dtype, &info.shape, bytes))
    }

    /// `bytes` of this shard as a tensor of the stored type on the CPU; their memory goes back to the system.
    fn floats(&self, name: &str, stored: safetensors::Dtype, shape: &[usize], bytes: &[u8]) -> Result<Tensor> {
        let dtype = match stored {
            safetensors::Dtype::BF16 => DType::BF16,
            safetensors::Dtype::F16 => DType::F16,
            safetensors::Dtype::F32 => DType::F32,
            safetensors::Dtype::F64 => DType::F64,
            other => {
                let hint = "Use a checkpoint in 16 or 32 bits, or one quantized to 4 bits by bitsandbytes.";
                return Err(Error::tensor(name, &self.path, format!("its type is {other}, not a float"), hint));
            }
        };
        let tensor = Tensor::from_raw_buffer(bytes, dtype, shape, &Device::Cpu)?;
        self.release(bytes);
        Ok(tensor)
    }

    fn release(&self, bytes: &[u8]) {
        let start = bytes.as_ptr() as usize - self.map.as_ptr() as usize;
        mmap::release(&self.map, start..start + bytes.len());
    }
}

impl Safetensors {
    /// Opens a directory's weights; reads headers only.
    ///
    /// Errors: [`Error::Read`] for a missing file or shard; [`Error::Format`] for a damaged header or index;
    /// [`Error::Tensor`] for a name that the index lists and its shard lacks.
    pub fn open(directory: &Path) -> Result<Self> {
        let index = directory.join(INDEX);
        if !index.exists() {
            let single = directory.join(SINGLE);
            if !single.exists() {
                let hint = format!("A model's folder holds `{SINGLE}`, or `{INDEX}` and its shards.");
                return Err(Error::absent(single, hint));
            }
            let shard = Shard::open(single)?;
            let tensors = shard.metadata.offset_keys().into_iter().map(|name| (name, 0)).collect();
            return Ok(Self { directory: directory.into(), shards: vec![shard], tensors });
        }
        let mut shards: Vec<Shard> = Vec::new();
        let mut tensors = BTreeMap::new();
        for (name, file) in read_index(&index)? {
            let path = directory.join(&file);
            let shard = match shards.iter().position(|s| s.path == path) {
                Some(found) => found,
                None => {
                    shards.push(Shard::open(path).map_err(|e| listed(e, &index))?);
                    shards.len() - 1
                }
            };
            if shards[shard].metadata.info(&name).is_none() {
                let what = format!("`{INDEX}` lists it there, but it is missing");
                return Err(Error::tensor(name, &shards[shard].path, what, DAMAGED));
            }
            tensors.insert(name, shard);
        }
        Ok(Self { directory: directory.into(), shards, tensors })
    }

    fn view(&self, name: &str) -> Option<(&Shard, safetensors::Dtype, &[usize], &[u8])> {
        let shard = &self.shards[*self.tensors.get(name)?];
        let (dtype, shape, bytes) = shard.view(name)?;
        Some((shard, dtype, shape, bytes))
    }

    fn is_quantized(&self, name: &str) -> bool {
        QUANT_STATES.iter().any(|state| self.tensors.contains_key(&format!("{name}{state}")))
    }

    /// The shape of a weight stored in 4 bits, before it was packed.
    fn logical_shape(&self, name: &str) -> Option<Vec<usize>> {
        let state = QUANT_STATES.iter().find_map(|state| self.view(&format!("{name}{state}")))?;
        let json: serde_json::Value = serde_json::from_slice(state.3).ok()?;
        json.get("shape")?.as_array()?.iter().map(|n| n.as_u64().map(|n| n as usize)).collect()
    }
}

/// Whether a tensor is a part of a 4-bit weight and no weight itself.
fn is_part(name: &str) -> bool {
    PARTS.iter().chain(&QUANT_STATES).any(|part| name.ends_with(part))
}

/// A missing shard's error, with a hint that names who asked for it.
fn listed(error: Error, index: &Path) -> Error {
    match error {
        Error::Read { path, source, .. } => {
            let hint = format!("`{}` lists it as a shard; copy it into the folder.", index.display());
            Error::Read { path, hint, source }
        }
        other => other,
    }
}

fn read_index(path: &Path) -> Result<Vec<(String, String)>> {
    let json: serde_json::Value = serde_json::from_slice(&files::read(path)?).map_err(|e| {
        Error::format(path, format!("line {}", e.line()), format!("this is not valid JSON ({e})"), DAMAGED)
    })?;
    let Some(map) = json.get("weight_map").and_then(|m| m.as_object()) else {
        return Err(Error::format(path, "key `weight_map`", "the key is missing or not an object", DAMAGED));
    };
    let entry = |(name, file): (&String, &serde_json::Value)| match file.as_str() {
        // Shards lie beside their index; anything else would read files that are not the model's.
        Some(file) if Path::new(file).file_name().is_some_and(|f| f == file) => Ok((name.clone(), file.to_string())),
        _ => Err(Error::format(path, format!("key `{name}`"), format!("`{file}` is not a file name"), DAMAGED)),
    };
    map.iter().map(entry).collect()
}

impl WeightSource for Safetensors {
    fn names(&self) -> Vec<String> {
        self.tensors.keys().filter(|name| !is_part(name)).cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let (_, _, shape, _) = self.view(name)?;
        Some(self.logical_shape(name).unwrap_or_else(|| shape.to_vec()))
    }

    fn tensor(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        if let Some(q) = self.quantized(name)? {
            let tensor = Tensor::from_vec(q.dequantize(), q.shape.as_slice(), &Device::Cpu)?;
            return Ok(tensor.to_dtype(dtype)?.to_device(device)?);
        }
        let (shard, stored, shape, bytes) = self.view(name).ok_or_else(|| missing(name, &self.directory))?;
        let tensor = shard.floats(name, stored, shape, bytes)?;
        // Converted on the CPU, so that a device only ever holds the type that is asked for.
        Ok(tensor.to_dtype(dtype)?.to_device(device)?)
    }

    fn rows(&self, name: &str, start: usize, count: usize) -> Result<Tensor> {
        if self.is_quantized(name) {
            return Ok(self.tensor(name, DType::F32, &Device::Cpu)?.narrow(0, start, count)?);
        }
        let (shard, stored, shape, bytes) = self.view(name).ok_or_else(|| missing(name, &self.directory))?;
        let row = bytes.len() / shape.first().copied().unwrap_or(1).max(1);
        let Some(bytes) = bytes.get(start * row..(start + count) * row) else {
            let what = format!("it has no rows {start} to {}, its shape is {shape:?}", start + count);
            return Err(Error::Shape { op: "rows", what });
        };
        let mut shape = shape.to_vec();
        if let Some(rows) = shape.first_mut() {
            *rows = count;
        }
        Ok(shard.floats(name, stored, &shape, bytes)?.to_dtype(DType::F32)?)
    }

    fn quantized(&self, name: &str) -> Result<Option<Quantized>> {
        let lookup = |key: &str| {
            let (_, dtype, shape, bytes) = self.view(key)?;
            TensorView::new(dtype, shape.to_vec(), bytes).ok()
        };
        let quantized = quant::from_state_dict(name, &self.directory, lookup)?;
        if let Some((shard, _, _, bytes)) = self.view(name).filter(|_| quantized.is_some()) {
            shard.release(bytes);
        }
        Ok(quantized)
    }

    fn path(&self) -> &Path {
        &self.directory
    }
}
