//! The way back: W' = W + s·B·A, after which the model needs no adapter.

use super::LoraLayer;
use crate::{Error, Result};
use candle_core::{DType, Tensor};

/// `weight` `[out, in]` plus the layer's s·B·A, computed in f32 and returned in `dtype`.
///
/// Errors: [`Error::Shape`] when the layer was made for another module.
/// Source: PEFT `src/peft/tuners/lora/layer.py`, `get_delta_weight`.
pub fn merged(weight: &Tensor, layer: &LoraLayer, dtype: DType) -> Result<Tensor> {
    let delta = (layer.b.matmul(&layer.a)? * layer.scale)?;
    if delta.dims() != weight.dims() {
        let what = format!("the adapter's {:?} does not fit the weight's {:?}", delta.dims(), weight.dims());
        return Err(Error::Shape { op: "merge", what });
    }
    Ok((weight.to_dtype(DType::F32)? + delta.to_device(weight.device())?)?.to_dtype(dtype)?)
}
