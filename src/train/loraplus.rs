//! LoRA+ (Hayou et al., arXiv:2402.12354): B learns faster than A.

use candle_core::Tensor;

/// What each parameter's learning rate is multiplied by: `ratio` for B and for vectors, 1 for all else.
///
/// Source: PEFT `src/peft/optimizers/loraplus.py`, `create_loraplus_optimizer`.
pub fn rates(parameters: &[(String, Tensor)], ratio: f64) -> Vec<f64> {
    let is_fast = |name: &str, value: &Tensor| name.contains("lora_B") || value.rank() == 1;
    parameters.iter().map(|(name, value)| if is_fast(name, value) { ratio } else { 1.0 }).collect()
}
