//! 4-bit block-wise quantization: NF4 and FP4 bit for bit as bitsandbytes does them on a CPU, INT4 to compare with.
//!
//! - `codebook`: the sixteen values of each type, and nearest-value search
//! - `blockwise`: a tensor to nibbles and back
//! - `double`: the block scales to 8 bits and back
//! - `state`: bitsandbytes' state dict, written and read

mod blockwise;
mod codebook;
mod double;
pub mod state;

use std::ops::Range;

pub use blockwise::decode;
pub use codebook::PairTable;
pub use double::{NESTED_BLOCKSIZE, create_dynamic_map};
pub use state::{StateTensor, from_state_dict, to_state_dict};

use crate::error::{Error, Result};

/// How sixteen codes are spread over -1..=1; the tables are [`QuantType::code`]'s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuantType {
    /// Quantiles of a normal distribution (QLoRA). The best of the three for weights.
    Nf4,
    /// bitsandbytes' 4-bit float: one sign bit, two exponent bits, one mantissa bit.
    Fp4,
    /// Even steps, -7/7..=7/7. No file format here: bitsandbytes neither quantizes to it nor loads it.
    Int4,
}

impl QuantType {
    /// The name in configuration and state dicts: `nf4`, `fp4` or `int4`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nf4 => "nf4",
            Self::Fp4 => "fp4",
            Self::Int4 => "int4",
        }
    }
}

/// The scale of each block.
#[derive(Clone, Debug, PartialEq)]
pub enum Absmax {
    /// One f32 per block.
    Plain(Vec<f32>),
    /// Double quantization; block `b` has the scale `code[codes[b]] * absmax[b / blocksize] + offset`.
    Nested {
        /// One per block.
        codes: Vec<u8>,
        /// The map of 256 values.
        code: Vec<f32>,
        /// One per `blocksize` codes.
        absmax: Vec<f32>,
        blocksize: usize,
        /// The mean of the scales.
        offset: f32,
    },
}

/// A weight matrix in four bits per value, with what decodes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantized {
    pub quant_type: QuantType,
    /// `[out, in]`.
    pub shape: [usize; 2],
    /// Values per block, over the matrix read row after row.
    pub blocksize: usize,
    /// Two values a byte, the earlier in the high nibble; `ceil(out * in / 2)` bytes.
    pub packed: Vec<u8>,
    /// The value of each nibble: the type's table, or the one a checkpoint stores.
    pub code: [f32; 16],
    pub absmax: Absmax,
    /// The type the weights had (`float32`, `bfloat16` or `float16`), for the state dict.
    pub dtype: String,
}

impl Quantized {
    /// Quantizes a matrix, in parallel.
    ///
    /// - `values`: `out * in` finite numbers, row after row
    /// - `blocksize`: values that share a scale; a power of two in 32..=4096
    /// - `double`: whether to quantize the scales as well
    ///
    /// The result's `dtype` is `float32`; set it if the values came from 16-bit weights.
    ///
    /// Errors: [`Error::Numeric`] names the first value that is NaN or infinite, [`Error::Config`] a bad `blocksize`,
    /// [`Error::Shape`] a shape that is empty or not that of `values`.
    ///
    /// Source: bitsandbytes 0.50 `functional.quantize_4bit`.
    ///
    /// ```
    /// use ferrotune::quant::{QuantType, Quantized};
    ///
    /// let values: Vec<f32> = (0..128).map(|i| (i as f32 * 0.1).sin()).collect();
    /// let q = Quantized::quantize(&values, [2, 64], QuantType::Nf4, 64, false)?;
    ///
    /// assert_eq!(q.packed.len(), 64); // two values a byte
    /// assert_eq!(q.absmax_values().len(), 2); // one scale per block of 64
    /// // 0 is one of NF4's values; no other is off by more than half the widest gap.
    /// let back = q.dequantize();
    /// assert_eq!(back[0], 0.0);
    /// assert!(values.iter().zip(&back).all(|(v, b)| (v - b).abs() <= 0.152));
    /// # Ok::<(), ferrotune::Error>(())
    /// ```
    pub fn quantize(
        values: &[f32],
        shape: [usize; 2],
        quant_type: QuantType,
        blocksize: usize,
        double: bool,
    ) -> Result<Self> {
        check_blocksize(blocksize).map_err(|what| Error::config("", what, "Use 64, as bitsandbytes does."))?;
        if values.is_empty() || shape[0].checked_mul(shape[1]) != Some(values.len()) {
            let what = format!("{} values do not fill a {} x {} matrix", values.len(), shape[0], shape[1]);
            return Err(Error::Shape { op: "quantize", what });
        }
        if let Some(i) = values.iter().position(|v| !v.is_finite()) {
            return Err(Error::Numeric {
                what: format!("weight at row {}, column {} is {}", i / shape[1], i % shape[1], values[i]),
                hint: "The weights are damaged; get the model again.".into(),
            });
        }
        let code = quant_type.code();
        let (packed, absmax) = blockwise::encode(values, blocksize, &code);
        let absmax = if double { double::compress(&absmax) } else { Absmax::Plain(absmax) };
        Ok(Self { quant_type, shape, blocksize, packed, code, absmax, dtype: "float32".into() })
    }

    /// Number of weights.
    pub fn values(&self) -> usize {
        self.shape[0] * self.shape[1]
    }

    /// The scale of each block, in f32.
    pub fn absmax_values(&self) -> Vec<f32> {
        match &self.absmax {
            Absmax::Plain(absmax) => absmax.clone(),
            Absmax::Nested { codes, code, absmax, blocksize, offset } => {
                double::expand(codes, code, absmax, *blocksize, *offset)
            }
        }
    }

    /// The whole matrix, row after row, in parallel.
    pub fn dequantize(&self) -> Vec<f32> {
        blockwise::decode_all(&self.code, &self.packed, &self.absmax_values(), self.blocksize, self.values())
    }

    /// Writes the values with index `range`, counted row after row, to `out`, which has the range's length.
    ///
    /// `absmax` is [`Quantized::absmax_values`], which the caller keeps. [`decode`] does the same with a table that is
    /// made once. Panics if the range is not inside the matrix or not as long as `out`.
    pub fn decode_range(&self, range: Range<usize>, absmax: &[f32], out: &mut [f32]) {
        assert!(range.end <= self.values() && range.len() == out.len(), "{range:?} of {:?}", self.shape);
        decode(&PairTable::new(&self.code), &self.packed, absmax, self.blocksize, range.start, out);
    }

    /// Bytes of the packed weights, their scales and their tables.
    pub fn size_bytes(&self) -> usize {
        let scales = match &self.absmax {
            Absmax::Plain(absmax) => size_of_val(&absmax[..]),
            Absmax::Nested { codes, code, absmax, offset, .. } => {
                codes.len() + size_of_val(&code[..]) + size_of_val(&absmax[..]) + size_of_val(offset)
            }
        };
        self.packed.len() + size_of_val(&self.code) + scales
    }
}

/// Says what is wrong with a block size.
fn check_blocksize(blocksize: usize) -> Result<(), String> {
    if blocksize.is_power_of_two() && (32..=4096).contains(&blocksize) {
        return Ok(());
    }
    Err(format!("block size {blocksize} is not a power of two from 32 to 4096"))
}
