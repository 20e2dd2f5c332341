//! The frozen matrix of a linear layer, dense or in 4 bits, on its device.
//!
//! A 4-bit matrix is flattened row by row and cut into blocks. Element `i` is
//!
//! ```text
//! code[nibble i] * absmax[i / blocksize]            nibble i: the high half of byte i / 2 for even i, else the low
//! ```
//!
//! and with double quantization `absmax[b] = map[codes[b]] * nested[b / nested_blocksize] + offset`, all in f32 and
//! rounded after each operation, as bitsandbytes does.

use crate::error::{Error, Result};
use crate::ops::cpu::{decode, slice};
use crate::quant::{Absmax, Quantized};
use candle_core::{DType, Device, Tensor};

const NAME: &str = "QuantizedWeight::new";

/// The weight of a linear layer, `[out, in]`.
#[derive(Clone, Debug)]
pub enum Weight {
    /// In a float type, `[out, in]`.
    Dense(Tensor),
    /// In 4 bits.
    Quantized(QuantizedWeight),
}

impl Weight {
    /// How many outputs the layer has.
    pub fn out_features(&self) -> usize {
        match self {
            Self::Dense(w) => w.dims().first().copied().unwrap_or(0),
            Self::Quantized(w) => w.shape[0],
        }
    }

    /// How many inputs the layer takes.
    pub fn in_features(&self) -> usize {
        match self {
            Self::Dense(w) => w.dims().get(1).copied().unwrap_or(0),
            Self::Quantized(w) => w.shape[1],
        }
    }

    /// The matrix `[out, in]` in `dtype`.
    pub fn dequantize(&self, dtype: DType) -> Result<Tensor> {
        match self {
            Self::Dense(w) => Ok(w.to_dtype(dtype)?),
            Self::Quantized(w) => w.dequantize(dtype),
        }
    }

    /// Bytes that the weight takes on its device.
    pub fn size_bytes(&self) -> usize {
        match self {
            Self::Dense(w) => bytes(w),
            Self::Quantized(w) => w.size_bytes(),
        }
    }

    /// Where the weight lies.
    pub fn device(&self) -> &Device {
        match self {
            Self::Dense(w) => w.device(),
            Self::Quantized(w) => w.packed.device(),
        }
    }
}

impl From<QuantizedWeight> for Weight {
    fn from(weight: QuantizedWeight) -> Self {
        Self::Quantized(weight)
    }
}

/// A matrix `[out, in]` in 4 bits.
#[derive(Clone, Debug)]
pub struct QuantizedWeight {
    shape: [usize; 2],
    blocksize: usize,
    /// `[ceil(out * in / 2)]` u8: two nibbles a byte.
    packed: Tensor,
    code: [f32; 16],
    /// `[256, 2]` f32: the two code values of each byte.
    pairs: Tensor,
    scales: Scales,
}

/// The largest magnitude of each block.
#[derive(Clone, Debug)]
enum Scales {
    /// `[blocks]` f32.
    Plain(Tensor),
    /// `codes` `[blocks]` u8, `map` `[256]` f32, `absmax` `[ceil(blocks / blocksize)]` f32.
    Nested { codes: Tensor, map: Tensor, absmax: Tensor, blocksize: usize, offset: f32 },
}

impl QuantizedWeight {
    /// Puts `q` on `device`, still in 4 bits.
    ///
    /// Errors: [`Error::Shape`] if the lengths inside `q` do not fit its shape and block sizes.
    pub fn new(q: &Quantized, device: &Device) -> Result<Self> {
        let values = q.shape[0] * q.shape[1];
        let expect = |what: &str, got: usize, want: usize| {
            if got == want {
                return Ok(());
            }
            let [out, input] = q.shape;
            let what = format!("{what} of a {out} x {input} matrix: expected {want}, found {got}");
            Err(Error::Shape { op: NAME, what })
        };
        let nested_blocksize = if let Absmax::Nested { blocksize, .. } = q.absmax { blocksize } else { 1 };
        if let Some(size) = [q.blocksize, nested_blocksize].into_iter().find(|size| !size.is_power_of_two()) {
            return Err(Error::Shape {
                op: NAME,
                what: format!("blocks of {size} elements, which is no power of two"),
            });
        }
        let blocks = values.div_ceil(q.blocksize);
        expect("packed bytes", q.packed.len(), values.div_ceil(2))?;
        let vector = |v: &[f32]| Tensor::from_slice(v, v.len(), device);
        let scales = match &q.absmax {
            Absmax::Plain(absmax) => {
                expect("block scales", absmax.len(), blocks)?;
                Scales::Plain(vector(absmax)?)
            }
            Absmax::Nested { codes, code, absmax, blocksize, offset } => {
                expect("block scales", codes.len(), blocks)?;
                expect("entries of the scales' map", code.len(), 256)?;
                expect("nested block scales", absmax.len(), blocks.div_ceil(*blocksize))?;
                let codes = Tensor::from_slice(codes, codes.len(), device)?;
                let (map, absmax) = (vector(code)?, vector(absmax)?);
                Scales::Nested { codes, map, absmax, blocksize: *blocksize, offset: *offset }
            }
        };
        let pairs = (0..256).flat_map(|byte| [q.code[byte >> 4], q.code[byte & 15]]).collect::<Vec<f32>>();
        Ok(Self {
            shape: q.shape,
            blocksize: q.blocksize,
            packed: Tensor::from_slice(&q.packed, q.packed.len(), device)?,
            code: q.code,
            pairs: Tensor::from_vec(pairs, (256, 2), device)?,
            scales,
        })
    }

    /// The matrix `[out, in]` in `dtype`; computed in f32.
    ///
    /// ```
    /// # use ferrotune::{candle_core::{DType, Device}, ops::weight::QuantizedWeight, quant::{QuantType, Quantized}};
    /// let values = [0f32, 2., 2., -2., 0., -2., 2., 0.];
    /// let q = Quantized::quantize(&values, [2, 4], QuantType::Nf4, 32, false)?;
    /// let w = QuantizedWeight::new(&q, &Device::Cpu)?.dequantize(DType::F32)?.to_vec2::<f32>()?;
    /// assert_eq!(w, [[0., 2., 2., -2.], [0., -2., 2., 0.]]);
    /// # Ok::<(), ferrotune::Error>(())
    /// ```
    pub fn dequantize(&self, dtype: DType) -> Result<Tensor> {
        let Some(lent) = self.lend() else {
            return self.dequantize_portable(dtype);
        };
        let mut values = vec![0f32; self.shape[0] * self.shape[1]];
        lent.blocks().decode(0, &mut values);
        Ok(Tensor::from_vec(values, (self.shape[0], self.shape[1]), self.packed.device())?.to_dtype(dtype)?)
    }

    /// [`QuantizedWeight::dequantize`] in candle's tensor operations, for any device.
    pub fn dequantize_portable(&self, dtype: DType) -> Result<Tensor> {
        let absmax = match &self.scales {
            Scales::Plain(absmax) => absmax.clone(),
            Scales::Nested { codes, map, absmax, blocksize, offset } => {
                let scaled = scale_blocks(&lookup(map, codes)?, absmax, *blocksize)?;
                (scaled + *offset as f64)?
            }
        };
        let values = self.shape[0] * self.shape[1];
        let code = lookup(&self.pairs, &self.packed)?.flatten_all()?.narrow(0, 0, values)?;
        Ok(scale_blocks(&code, &absmax, self.blocksize)?.reshape(&self.shape[..])?.to_dtype(dtype)?)
    }

    /// Bytes on the device.
    pub fn size_bytes(&self) -> usize {
        let scales = match &self.scales {
            Scales::Plain(absmax) => bytes(absmax),
            Scales::Nested { codes, map, absmax, .. } => bytes(codes) + bytes(map) + bytes(absmax),
        };
        bytes(&self.packed) + bytes(&self.pairs) + scales
    }

    /// The bytes themselves, if they lie in the CPU's memory.
    pub(in crate::ops) fn lend(&self) -> Option<decode::Lent<'_>> {
        let scales = match &self.scales {
            Scales::Plain(absmax) => decode::LentScales::Plain(slice::of(absmax)?),
            Scales::Nested { codes, map, absmax, blocksize, offset } => decode::LentScales::Nested {
                codes: slice::of(codes)?,
                map: slice::of(map)?,
                absmax: slice::of(absmax)?,
                blocksize: *blocksize,
                offset: *offset,
            },
        };
        Some(decode::Lent { packed: slice::of(&self.packed)?, code: self.code, scales, blocksize: self.blocksize })
    }
}

/// The rows of `table` [256, …] that `bytes` [n] name. candle takes the largest value of an index's type, here 255, for
/// "no row", so the index needs a wider type.
fn lookup(table: &Tensor, bytes: &Tensor) -> Result<Tensor> {
    Ok(table.index_select(&bytes.to_dtype(DType::U32)?, 0)?)
}

/// `values` [n] times `scales` [ceil(n / blocksize)], one for each block.
fn scale_blocks(values: &Tensor, scales: &Tensor, blocksize: usize) -> Result<Tensor> {
    let (n, blocks) = (values.elem_count(), scales.elem_count());
    let padded = values.pad_with_zeros(0, 0, blocks * blocksize - n)?.reshape((blocks, blocksize))?;
    Ok(padded.broadcast_mul(&scales.reshape((blocks, 1))?)?.flatten_all()?.narrow(0, 0, n)?)
}

fn bytes(t: &Tensor) -> usize {
    t.elem_count() * t.dtype().size_in_bytes()
}
