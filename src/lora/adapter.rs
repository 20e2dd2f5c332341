//! The adapter of one model: a pair of matrices for each adapted module.

use super::{LoraConfig, TargetModules, init};
use crate::ops::qlora_linear::{Dropout, LoraBranch};
use crate::{Error, Result};
use candle_core::{Device, Tensor};
use std::collections::BTreeMap;

/// A linear module that may be adapted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleShape {
    /// Its name in transformers, such as `model.layers.0.self_attn.q_proj`.
    pub name: String,
    pub in_features: usize,
    pub out_features: usize,
}

/// The trained branch of one module.
///
/// The tensors share their storage with the optimizer, which updates them in place.
#[derive(Clone, Debug)]
pub struct LoraLayer {
    /// `[r, in]` f32
    pub a: Tensor,
    /// `[out, r]` f32
    pub b: Tensor,
    /// α/r, or α/√r with rsLoRA
    pub scale: f64,
    /// Probability with which an input element is dropped while training.
    pub dropout: f32,
    /// `[out]` f32, with DoRA: the length that each row of the weight gets.
    pub magnitude: Option<Tensor>,
}

impl LoraLayer {
    /// The branch as the linear operation takes it; `seed` names the dropout stream of this call, `None` drops nothing.
    pub fn branch(&self, seed: Option<u64>) -> LoraBranch<'_> {
        let dropout = seed.filter(|_| self.dropout > 0.0).map(|seed| Dropout { p: self.dropout, seed });
        LoraBranch { a: &self.a, b: &self.b, scale: self.scale, dropout }
    }
}

/// The LoRA matrices of a model, by module name.
#[derive(Clone, Debug)]
pub struct Adapter {
    pub config: LoraConfig,
    /// What the adapter was trained on: a Hub name or a path.
    pub base_model: String,
    pub layers: BTreeMap<String, LoraLayer>,
}

impl Adapter {
    /// A new adapter for those of `modules` that `config` targets, in the state in which training starts.
    ///
    /// Each matrix draws from its own stream of `seed`, so that adding a module changes no other one. DoRA's magnitudes are
    /// lengths of the model's own rows: [`Decoder::new_adapter`](crate::model::Decoder::new_adapter) adds them.
    /// Errors: [`Error::Config`] when a target names no module, or for a rank that is above both sides of a module.
    pub fn init(
        config: LoraConfig,
        base_model: &str,
        modules: &[ModuleShape],
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        let mut layers = BTreeMap::new();
        for module in targeted(&config, modules)? {
            let r = config.rank_for(&module.name);
            // Above the smaller side a rank only costs; far above it, it takes all memory.
            let most = module.in_features.max(module.out_features);
            if r > most {
                let what = format!("the rank {r} is above {most}, the longer side of `{}`", module.name);
                return Err(Error::config("`r`", what, "Choose a lower rank; 8 to 64 are usual."));
            }
            let (a, b) = init::matrices(&config.init_lora_weights, r, module, seed, device)?;
            layers.insert(module.name.clone(), layer(&config, &module.name, a, b));
        }
        Ok(Self { config, base_model: base_model.to_string(), layers })
    }

    /// Every trained tensor by its name in PEFT's file, sorted.
    pub fn tensors(&self) -> Vec<(String, Tensor)> {
        let mut tensors = Vec::with_capacity(2 * self.layers.len());
        for (name, layer) in &self.layers {
            tensors.push((super::peft::key(name, "lora_A"), layer.a.clone()));
            tensors.push((super::peft::key(name, "lora_B"), layer.b.clone()));
            if let Some(magnitude) = &layer.magnitude {
                tensors.push((super::peft::magnitude_key(name), magnitude.clone()));
            }
        }
        tensors
    }

    /// Sets the dropout of every layer.
    pub fn set_dropout(&mut self, p: f64) {
        self.config.lora_dropout = p;
        for layer in self.layers.values_mut() {
            layer.dropout = p as f32;
        }
    }

    /// The number of trained values.
    pub fn parameter_count(&self) -> usize {
        let magnitude = |l: &LoraLayer| l.magnitude.as_ref().map_or(0, Tensor::elem_count);
        self.layers.values().map(|l| l.a.elem_count() + l.b.elem_count() + magnitude(l)).sum()
    }
}

/// The layer of `name` under `config`'s scale and dropout.
pub(super) fn layer(config: &LoraConfig, name: &str, a: Tensor, b: Tensor) -> LoraLayer {
    let rank = config.rank_for(name) as f64;
    let alpha = config.alpha_for(name);
    let scale = if config.use_rslora { alpha / rank.sqrt() } else { alpha / rank };
    LoraLayer { a, b, scale, dropout: config.lora_dropout as f32, magnitude: None }
}

/// The modules that `config` targets, by PEFT's rule: a target names a module or the end of its dotted name.
///
/// Errors: [`Error::Config`] when a target names no module, with the names there are.
pub fn targeted<'m>(config: &LoraConfig, modules: &'m [ModuleShape]) -> Result<Vec<&'m ModuleShape>> {
    let TargetModules::Names(targets) = &config.target_modules else {
        return Ok(modules.iter().collect());
    };
    let matches = |name: &str, target: &str| name == target || name.ends_with(&format!(".{target}"));
    for target in targets {
        if !modules.iter().any(|m| matches(&m.name, target)) {
            let mut kinds: Vec<&str> = modules.iter().filter_map(|m| m.name.rsplit('.').next()).collect();
            kinds.sort_unstable();
            kinds.dedup();
            return Err(Error::config(
                "`target_modules`",
                format!("the model has no linear module `{target}`"),
                format!("It has {}; name some of these, or write \"all-linear\".", quoted(&kinds)),
            ));
        }
    }
    Ok(modules.iter().filter(|m| targets.iter().any(|t| matches(&m.name, t))).collect())
}

fn quoted(names: &[&str]) -> String {
    names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ")
}
