//! The first values of A and B: B = 0, so that training starts at the base model exactly.

use super::{Init, ModuleShape};
use crate::{Error, Result};
use candle_core::{Device, Tensor};
use rand::distr::{Distribution, Uniform};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A `[r, in]` and B `[out, r]`, both f32, for one module.
///
/// `Init::Default` draws A from U(−1/√in, 1/√in), which is PyTorch's `kaiming_uniform_(a = √5)`; `Init::Gaussian` from
/// N(0, 1/r²). Source: PEFT `src/peft/tuners/lora/layer.py`, `reset_lora_parameters`.
/// Errors: [`Error::Config`] for an initialisation that needs the weight's decomposition.
pub fn matrices(init: &Init, r: usize, module: &ModuleShape, seed: u64, device: &Device) -> Result<(Tensor, Tensor)> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ fnv1a(&module.name));
    let n = r * module.in_features;
    let values: Vec<f32> = match init {
        Init::Default => {
            let bound = 1.0 / (module.in_features as f32).sqrt();
            let uniform = Uniform::new_inclusive(-bound, bound)
                .map_err(|e| Error::Shape { op: "lora init", what: e.to_string() })?;
            (0..n).map(|_| uniform.sample(&mut rng)).collect()
        }
        Init::Gaussian => (0..n).map(|_| (normal(&mut rng) / r as f64) as f32).collect(),
        other => {
            return Err(Error::config(
                "`init_lora_weights`",
                format!("{other:?} is not available"),
                "Use true or \"gaussian\".",
            ));
        }
    };
    let a = Tensor::from_vec(values, (r, module.in_features), device)?;
    let b = Tensor::zeros((module.out_features, r), candle_core::DType::F32, device)?;
    Ok((a, b))
}

/// A standard normal value (Box and Muller, 1958).
pub(crate) fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let u: f64 = 1.0 - rng.random::<f64>();
    let v: f64 = rng.random();
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

/// FNV-1a, to turn a module's name into a stream of its own.
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}
