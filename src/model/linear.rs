//! A linear module as the decoder block uses it: a frozen or trained weight and, where adapted, its LoRA branch.

use super::parameters::{Gradients, ParameterId};
use crate::Result;
use crate::lora::LoraLayer;
use crate::ops::qlora_linear::{self, Needs, Saved};
use crate::ops::weight::Weight;
use candle_core::Tensor;

/// y = x·Wᵀ, plus the LoRA branch where there is one.
#[derive(Debug)]
pub struct Linear {
    /// Its name in transformers, such as `model.layers.0.self_attn.q_proj`.
    pub name: String,
    pub weight: Weight,
    /// Where the gradient of the weight goes, for the methods that train it.
    pub weight_id: Option<ParameterId>,
    pub lora: Option<AdaptedLayer>,
}

/// A LoRA branch and, when it is being trained, the places of its gradients.
#[derive(Debug)]
pub struct AdaptedLayer {
    pub layer: LoraLayer,
    /// Of A and of B.
    pub ids: Option<(ParameterId, ParameterId)>,
}

impl Linear {
    /// A frozen module without a branch.
    pub fn new(name: String, weight: Weight) -> Self {
        Self { name, weight, weight_id: None, lora: None }
    }

    /// `x` `[T, in]` to `[T, out]`; `seed` is the dropout stream of this call, `None` when not training.
    pub fn forward(&self, x: &Tensor, seed: Option<u64>) -> Result<(Tensor, Saved)> {
        let branch = self.lora.as_ref().map(|l| l.layer.branch(seed));
        qlora_linear::forward(x, &self.weight, None, branch.as_ref())
    }

    /// What [`Linear::forward`] saves, without its output.
    pub fn saved(&self, x: &Tensor, seed: Option<u64>) -> Result<Saved> {
        let branch = self.lora.as_ref().map(|l| l.layer.branch(seed));
        qlora_linear::saved(x, &self.weight, branch.as_ref())
    }

    /// The gradient of the input, if `need_dx`; gradients of what is trained are added to `gradients`.
    ///
    /// `x` and `seed` are those of the forward call.
    pub fn backward(
        &self,
        x: &Tensor,
        saved: &Saved,
        dy: &Tensor,
        seed: Option<u64>,
        need_dx: bool,
        gradients: &mut Gradients,
    ) -> Result<Option<Tensor>> {
        let branch = self.lora.as_ref().map(|l| l.layer.branch(seed));
        let needs = Needs { dx: need_dx, dw: self.weight_id.is_some() };
        let grads = qlora_linear::backward(x, &self.weight, branch.as_ref(), saved, dy, needs)?;
        if let Some((a, b)) = self.lora.as_ref().and_then(|l| l.ids) {
            if let Some(da) = grads.da {
                gradients.add(a, da)?;
            }
            if let Some(db) = grads.db {
                gradients.add(b, db)?;
            }
        }
        if let (Some(id), Some(dw)) = (self.weight_id, grads.dw) {
            gradients.add(id, dw)?;
        }
        Ok(grads.dx)
    }
}
