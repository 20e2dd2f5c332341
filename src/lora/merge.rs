//! The way back: W' = W + s·B·A, under DoRA with each row at its trained length, after which the model needs no adapter.

use super::LoraLayer;
use crate::{Error, Result};
use candle_core::{DType, Tensor};

/// Rows of a weight, `[count, in]` from row `start` on, merged with the same rows of the layer's s·B·A: in f32 on the CPU.
///
/// Errors: [`Error::Shape`] when the layer was made for another module.
/// Source: PEFT `src/peft/tuners/lora/layer.py`, `get_delta_weight`; `dora.py`.
pub fn merged_rows(rows: &Tensor, start: usize, layer: &LoraLayer) -> Result<Tensor> {
    let (count, columns) = rows.dims2()?;
    let (out, input) = (layer.b.dim(0)?, layer.a.dim(1)?);
    if columns != input || start + count > out {
        let what =
            format!("the adapter's [{out}, {input}] does not fit the weight's rows to {}, of {columns}", start + count);
        return Err(Error::Shape { op: "merge", what });
    }
    let delta = (layer.b.narrow(0, start, count)?.matmul(&layer.a)? * layer.scale)?;
    let merged = (rows.to_dtype(DType::F32)? + delta.to_device(rows.device())?)?;
    let Some(magnitude) = &layer.magnitude else { return Ok(merged) };
    let norms = merged.sqr()?.sum_keepdim(1)?.sqrt()?;
    let magnitude = magnitude.narrow(0, start, count)?.to_device(rows.device())?.unsqueeze(1)?;
    Ok(merged.broadcast_mul(&(magnitude / norms)?)?)
}
