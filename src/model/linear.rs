//! A linear module as the decoder block uses it: a frozen or trained weight and, where adapted, its LoRA branch.

use super::parameters::{Gradients, ParameterId};
use crate::Result;
use crate::lora::LoraLayer;
use crate::ops::dora::{self, Magnitude};
use crate::ops::qlora_linear::{self, Grads, Needs};
use crate::ops::weight::Weight;
use candle_core::Tensor;

/// What a module's backward needs of its forward.
#[derive(Debug)]
pub enum Saved {
    Plain(qlora_linear::Saved),
    Dora(dora::Saved),
}

impl Default for Saved {
    fn default() -> Self {
        Self::Plain(Default::default())
    }
}

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
    pub ids: Option<LayerIds>,
    /// With DoRA ‖w‖² of each row of the weight, `[out]` f32.
    weight_norms_squared: Option<Tensor>,
}

/// The places of a layer's gradients.
#[derive(Clone, Copy, Debug)]
pub struct LayerIds {
    pub a: ParameterId,
    pub b: ParameterId,
    pub magnitude: Option<ParameterId>,
}

impl AdaptedLayer {
    /// The branch `layer` beside `weight`.
    ///
    /// Errors: candle's.
    pub fn new(layer: LoraLayer, ids: Option<LayerIds>, weight: &Weight) -> Result<Self> {
        let weight_norms_squared = match layer.magnitude {
            Some(_) => Some(dora::row_norms_squared(weight)?),
            None => None,
        };
        Ok(Self { layer, ids, weight_norms_squared })
    }

    /// The magnitudes, with DoRA.
    fn magnitude(&self) -> Option<Magnitude<'_>> {
        let (m, weight_norms_squared) = (self.layer.magnitude.as_ref()?, self.weight_norms_squared.as_ref()?);
        Some(Magnitude { m, weight_norms_squared })
    }
}

impl Linear {
    /// A frozen module without a branch.
    pub fn new(name: String, weight: Weight) -> Self {
        Self { name, weight, weight_id: None, lora: None }
    }

    /// `x` `[T, in]` to `[T, out]`; `seed` is the dropout stream of this call, `None` when not training.
    pub fn forward(&self, x: &Tensor, seed: Option<u64>) -> Result<(Tensor, Saved)> {
        let branch = self.lora.as_ref().map(|l| l.layer.branch(seed));
        if let (Some(branch), Some(magnitude)) = (&branch, self.magnitude()) {
            let (y, saved) = dora::forward(x, &self.weight, branch, &magnitude)?;
            return Ok((y, Saved::Dora(saved)));
        }
        let (y, saved) = qlora_linear::forward(x, &self.weight, None, branch.as_ref())?;
        Ok((y, Saved::Plain(saved)))
    }

    /// What [`Linear::forward`] saves, without its output.
    pub fn saved(&self, x: &Tensor, seed: Option<u64>) -> Result<Saved> {
        let branch = self.lora.as_ref().map(|l| l.layer.branch(seed));
        if let (Some(branch), Some(_)) = (&branch, self.magnitude()) {
            return Ok(Saved::Dora(dora::saved(x, &self.weight, branch)?));
        }
        Ok(Saved::Plain(qlora_linear::saved(x, &self.weight, branch.as_ref())?))
    }

    /// The magnitudes of its branch, with DoRA.
    fn magnitude(&self) -> Option<Magnitude<'_>> {
        self.lora.as_ref()?.magnitude()
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
        let (grads, dm): (Grads, Option<Tensor>) = match (saved, &branch, self.magnitude()) {
            (Saved::Dora(saved), Some(branch), Some(magnitude)) => {
                let (grads, dm) = dora::backward(x, &self.weight, branch, &magnitude, saved, dy, needs)?;
                (grads, Some(dm))
            }
            (Saved::Plain(saved), branch, _) => {
                (qlora_linear::backward(x, &self.weight, branch.as_ref(), saved, dy, needs)?, None)
            }
            (Saved::Dora(_), ..) => {
                let what = "the forward had magnitudes, the backward has none".into();
                return Err(crate::Error::Shape { op: "linear", what });
            }
        };
        if let Some(ids) = self.lora.as_ref().and_then(|l| l.ids) {
            for (id, gradient) in [(Some(ids.a), grads.da), (Some(ids.b), grads.db), (ids.magnitude, dm)] {
                if let (Some(id), Some(gradient)) = (id, gradient) {
                    gradients.add(id, gradient)?;
                }
            }
        }
        if let (Some(id), Some(dw)) = (self.weight_id, grads.dw) {
            gradients.add(id, dw)?;
        }
        Ok(grads.dx)
    }
}
