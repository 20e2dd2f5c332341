//! A model as a GGUF file, as llama.cpp's converter writes it: one file with weights, config, tokenizer and chat template.
//!
//! The file is written from front to back, the weights in parts; it has a temporary name until it is whole.
//! Source: ggml `docs/gguf.md`, llama.cpp `convert_hf_to_gguf.py` and, for mixed types, `llama-quant.cpp`.

mod metadata;
mod tokenizer;

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Tensor};

use super::{Pretrained, chunks, shape};
use crate::model::names::{self, EMBED_TOKENS, LM_HEAD};
use crate::model::weights::check_finite;
use crate::{Error, Result, files};

const ALIGNMENT: u64 = 32;
/// The divisors of the rotary frequencies, where the model has a rule for them.
const ROPE_FREQS: &str = "rope_freqs.weight";

/// What the matrices of a file are stored as; everything else is f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GgufType {
    F16,
    Bf16,
    /// 8 bits and a scale for each 32 weights.
    Q8_0,
    /// 4 bits and a scale for each 32 weights; the head in 6 or 8.
    Q4_0,
    /// 4 bits with scales and minima in two levels, for each 256 weights; the head in 6 or 8. Rows that 256 does not divide
    /// are `Q5_0`.
    Q4K,
}

impl GgufType {
    /// llama.cpp's `general.file_type`.
    fn file_type(self) -> u32 {
        match self {
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q8_0 => 7,
            Self::Q4K => 14,
            Self::Bf16 => 32,
        }
    }

    /// The type of the matrix `name` with rows of `columns`.
    ///
    /// Errors: [`Error::Config`] where no type of this kind fits the rows.
    fn of(self, name: &str, columns: usize, tied: bool) -> Result<GgmlDType> {
        let is_head = name == LM_HEAD || (tied && name == EMBED_TOKENS);
        let wanted = match self {
            Self::F16 => &[GgmlDType::F16][..],
            Self::Bf16 => &[GgmlDType::BF16],
            Self::Q8_0 => &[GgmlDType::Q8_0],
            Self::Q4_0 | Self::Q4K if is_head => &[GgmlDType::Q6K, GgmlDType::Q8_0],
            Self::Q4_0 => &[GgmlDType::Q4_0],
            Self::Q4K => &[GgmlDType::Q4K, GgmlDType::Q5_0],
        };
        wanted.iter().copied().find(|kind| columns.is_multiple_of(kind.block_size())).ok_or_else(|| {
            let what = format!("the rows of `{name}` have {columns} weights, which do not divide into blocks of 32");
            Error::config("", what, "Write the file as f16 or bf16.")
        })
    }
}

/// A tensor of the file that is going to be written.
struct Entry {
    gguf: String,
    /// The name in Hugging Face's layout; `None` for what is computed.
    name: Option<String>,
    shape: Vec<usize>,
    kind: GgmlDType,
}

impl Entry {
    fn bytes(&self) -> u64 {
        let elements: usize = self.shape.iter().product();
        (elements / self.kind.block_size() * self.kind.type_size()) as u64
    }
}

/// Writes the model as the GGUF file `path`, its matrices as `kind`.
///
/// `progress` hears of each finished tensor (number done, number in all).
///
/// Errors: [`Error::Config`] for rows that do not divide into blocks, or a tokenizer that GGUF has no name for;
/// [`Error::Write`]; those of reading the weights.
pub fn write_gguf(
    pretrained: &Pretrained,
    kind: GgufType,
    path: &Path,
    mut progress: impl FnMut(usize, usize),
) -> Result<()> {
    let entries = entries(pretrained, kind)?;
    let metadata = metadata::of(pretrained, kind)?;
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        files::create_directory(parent)?;
    }
    let mut file = Unfinished::create(path)?;
    file.write(&metadata::header(&metadata, &entries))?;
    for (i, entry) in entries.iter().enumerate() {
        file.align()?;
        match &entry.name {
            None => file.write(&bytes(&divisors(pretrained)?, entry.kind)?)?,
            Some(name) => match permuted_heads(pretrained, name) {
                Some(heads) => {
                    let weight = pretrained.weights.tensor(name, DType::F32, &candle_core::Device::Cpu)?;
                    check_finite(name, pretrained.weights.path(), &weight)?;
                    file.write(&bytes(&permute(&weight, heads)?, entry.kind)?)?;
                }
                None => chunks(pretrained, name, |_, rows| file.write(&bytes(&rows, entry.kind)?))?,
            },
        }
        progress(i + 1, entries.len());
    }
    file.finish()
}

fn entries(pretrained: &Pretrained, kind: GgufType) -> Result<Vec<Entry>> {
    let tied = pretrained.config.tie_word_embeddings;
    let mut entries = Vec::new();
    for (name, _) in names::expected(&pretrained.config) {
        let shape = shape(pretrained, &name)?;
        let kind = match shape[..] {
            [_, columns] => kind.of(&name, columns, tied)?,
            _ => GgmlDType::F32,
        };
        let gguf = names::to_gguf(&name).unwrap_or_else(|| name.clone());
        entries.push(Entry { gguf, name: Some(name), shape, kind });
    }
    if metadata::has_divisors(&pretrained.config) {
        let shape = vec![pretrained.config.head_dim / 2];
        entries.push(Entry { gguf: ROPE_FREQS.into(), name: None, shape, kind: GgmlDType::F32 });
    }
    Ok(entries)
}

/// Of how many heads the rows of the weight are, if llama.cpp has them in another order.
fn permuted_heads(pretrained: &Pretrained, name: &str) -> Option<usize> {
    let config = &pretrained.config;
    match name.rsplit('.').nth(1) {
        Some("q_proj") if metadata::family(config).gguf_permutes_qk => Some(config.num_attention_heads),
        Some("k_proj") if metadata::family(config).gguf_permutes_qk => Some(config.num_key_value_heads),
        _ => None,
    }
}

/// The rows of each head from halves (x₀…, x_{d/2}…) to pairs (x₀, x_{d/2}, x₁, …).
fn permute(weight: &Tensor, heads: usize) -> Result<Tensor> {
    let (rows, columns) = weight.dims2()?;
    let pairs = weight.reshape((heads, 2, rows / heads / 2, columns))?.transpose(1, 2)?;
    Ok(pairs.contiguous()?.reshape((rows, columns))?)
}

/// What each frequency of the unscaled rule is divided by: `[head_dim / 2]`.
fn divisors(pretrained: &Pretrained) -> Result<Tensor> {
    let plain = crate::model::Config { rope_scaling: None, ..pretrained.config.clone() };
    let (plain, scaled) = (crate::model::rope::inv_freq(&plain), crate::model::rope::inv_freq(&pretrained.config));
    let divisors: Vec<f32> = plain.iter().zip(&scaled).map(|(plain, scaled)| plain / scaled).collect();
    Ok(Tensor::new(divisors, &candle_core::Device::Cpu)?)
}

fn bytes(values: &Tensor, kind: GgmlDType) -> Result<Vec<u8>> {
    Ok(match kind {
        GgmlDType::F32 => files::little_endian(values)?.1,
        GgmlDType::F16 => files::little_endian(&values.to_dtype(DType::F16)?)?.1,
        GgmlDType::BF16 => files::little_endian(&values.to_dtype(DType::BF16)?)?.1,
        _ => QTensor::quantize(values, kind)?.data()?.into_owned(),
    })
}

/// A file under a temporary name, which goes away unless it is finished.
struct Unfinished {
    path: PathBuf,
    temporary: PathBuf,
    file: BufWriter<File>,
    length: u64,
}

impl Unfinished {
    fn create(path: &Path) -> Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let temporary = path.with_file_name(format!(".{name}.tmp-{}", std::process::id()));
        let file = File::create(&temporary).map_err(|e| Error::write(path, e))?;
        Ok(Self { path: path.into(), temporary, file: BufWriter::with_capacity(1 << 20, file), length: 0 })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.length += bytes.len() as u64;
        self.file.write_all(bytes).map_err(|e| Error::write(&self.path, e))
    }

    fn align(&mut self) -> Result<()> {
        let padding = (self.length.next_multiple_of(ALIGNMENT) - self.length) as usize;
        self.write(&[0; ALIGNMENT as usize][..padding])
    }

    fn finish(mut self) -> Result<()> {
        let written = (|| {
            self.file.flush()?;
            self.file.get_ref().sync_all()?;
            fs::rename(&self.temporary, &self.path)
        })();
        written.map_err(|e| Error::write(&self.path, e))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Absent once it has its name; else nobody's, and whatever keeps it from going away was reported by the write.
        let _ = fs::remove_file(&self.temporary);
    }
}
