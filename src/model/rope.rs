//! The rotary frequencies of a model, as transformers computes them.
//!
//! Pair i of a head of size d turns by `position * inv_freq[i]`, where `inv_freq[i] = theta^(-2i/d)`, i < d/2.
//! `linear` scaling divides all of them by a factor. `llama3` scaling divides only the slow ones, whose wavelength
//! 2π/inv_freq is above `original / low_freq_factor`, keeps those below `original / high_freq_factor`, and blends between.

use crate::model::Config;

/// How a model stretches its rotary frequencies to a longer context.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// All frequencies divided by `factor`.
    Linear { factor: f64 },
    /// Llama 3.1's rule; `original_max_position_embeddings` is in tokens.
    Llama3 { factor: f64, low_freq_factor: f64, high_freq_factor: f64, original_max_position_embeddings: usize },
}

/// The `head_dim / 2` inverse frequencies, in radians per position.
///
/// Computed in f32 in transformers' order of operations, so that tables agree to the last bits.
/// Source: transformers `modeling_rope_utils.py`.
pub fn inv_freq(config: &Config) -> Vec<f32> {
    let mut freqs = unscaled(config.rope_theta, config.head_dim);
    match &config.rope_scaling {
        None => {}
        Some(RopeScaling::Linear { factor }) => freqs.iter_mut().for_each(|f| *f /= *factor as f32),
        Some(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings }) => {
            let (factor, low, high) = (*factor as f32, *low_freq_factor as f32, *high_freq_factor as f32);
            let original = *original_max_position_embeddings as f32;
            for f in &mut freqs {
                let wavelength = 2.0 * std::f32::consts::PI / *f;
                if wavelength > original / low {
                    *f /= factor;
                } else if wavelength >= original / high {
                    let smooth = (original / wavelength - low) / (high - low);
                    *f = (1.0 - smooth) * *f / factor + smooth * *f;
                }
            }
        }
    }
    freqs
}

fn unscaled(theta: f64, head_dim: usize) -> Vec<f32> {
    (0..head_dim / 2).map(|i| 1.0 / (theta as f32).powf((2 * i) as f32 / head_dim as f32)).collect()
}

/// The scaling behind llama.cpp's `rope_freqs` tensor, which holds one divisor per frequency instead of the rule.
///
/// Every published Llama 3.1 and later uses low 1, high 4 and 8192 original positions; the factor is the largest divisor.
/// `None` when the divisors follow no such rule; `Some(None)` when they are all 1.
pub(crate) fn scaling_from_divisors(divisors: &[f32], theta: f64, head_dim: usize) -> Option<Option<RopeScaling>> {
    if divisors.len() != head_dim / 2 {
        return None;
    }
    if divisors.iter().all(|&d| d == 1.0) {
        return Some(None);
    }
    let factor = divisors.iter().copied().fold(f32::MIN, f32::max);
    let (low, high, original) = (1.0f32, 4.0f32, 8192usize);
    let follows = unscaled(theta, head_dim).iter().zip(divisors).all(|(&f, &d)| {
        let wavelength = 2.0 * std::f32::consts::PI / f;
        let expected = if wavelength > original as f32 / low {
            factor
        } else if wavelength >= original as f32 / high {
            let smooth = (original as f32 / wavelength - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        } else {
            1.0
        };
        (d - expected).abs() <= 1e-3 * expected
    });
    follows.then(|| {
        Some(RopeScaling::Llama3 {
            factor: factor.into(),
            low_freq_factor: low.into(),
            high_freq_factor: high.into(),
            original_max_position_embeddings: original,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What llama.cpp's converter writes into `rope_freqs.weight` for Llama 3.2.
    fn llama_cpp_divisors(theta: f64, head_dim: usize, factor: f32) -> Vec<f32> {
        unscaled(theta, head_dim)
            .iter()
            .map(|f| {
                let wavelength = 2.0 * std::f32::consts::PI / f;
                if wavelength < 2048.0 {
                    1.0
                } else if wavelength > 8192.0 {
                    factor
                } else {
                    let smooth = (8192.0 / wavelength - 1.0) / 3.0;
                    1.0 / ((1.0 - smooth) / factor + smooth)
                }
            })
            .collect()
    }

    #[test]
    fn divisors_of_llama_3_are_recognised_and_others_are_not() {
        let mut divisors = llama_cpp_divisors(500_000.0, 64, 32.0);
        let found = scaling_from_divisors(&divisors, 500_000.0, 64);
        assert!(matches!(found, Some(Some(RopeScaling::Llama3 { factor: 32.0, .. }))), "{found:?}");
        assert_eq!(scaling_from_divisors(&[1.0; 32], 500_000.0, 64), Some(None));
        divisors[31] = 7.0;
        assert_eq!(scaling_from_divisors(&divisors, 500_000.0, 64), None);
        assert_eq!(scaling_from_divisors(&divisors[..3], 500_000.0, 64), None);
    }
}
