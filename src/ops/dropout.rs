//! Dropout whose mask is counted, not drawn: element `i` of stream `seed` is kept or not by a hash of `(seed, i)` alone.
//!
//! So nothing is stored between forward and backward, the mask is the same on every device and for every partition of
//! the work, and a run resumes by its seeds. One 64-bit hash decides four elements, 16 bits each:
//!
//! ```text
//! kept(i)  =  16-bit lane i % 4 of mix(mix(seed) + (i / 4 + 1) * 0x9e3779b97f4a7c15)  >=  round(65536 p)
//! ```
//!
//! `mix` is the finaliser of SplitMix64. Kept elements are multiplied by 1 / (1 - p), which the operations fold into a
//! factor they have anyway.

use crate::error::{Error, Result};
use crate::ops::cpu::dropout::Mask;
use candle_core::{DType, Device, Shape, Tensor};

/// Zeroes each element with probability `p`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Probability that an element is zeroed, in [0, 1), rounded to a multiple of 1/65536 below 1.
    pub p: f32,
    /// Which stream of decisions; every use in a run takes another.
    pub seed: u64,
}

impl Dropout {
    /// Errors: [`Error::Config`] unless `p` is in [0, 1).
    pub fn check(&self) -> Result<()> {
        if (0. ..1.).contains(&self.p) {
            return Ok(());
        }
        let what = format!("dropout of {} is not a probability below 1", self.p);
        Err(Error::config("", what, "Choose a number from 0 up to, but not including, 1."))
    }

    /// What a kept element is multiplied by: 1 / (1 - p).
    pub fn scale(&self) -> f64 {
        1. / (1. - self.p as f64)
    }

    /// Whether element `i` is kept.
    ///
    /// ```
    /// # use ferrotune::ops::dropout::Dropout;
    /// let dropout = Dropout { p: 0.5, seed: 7 };
    /// let kept = (0..8).map(|i| dropout.kept(i)).collect::<Vec<_>>();
    /// assert_eq!(kept, [true, false, true, true, true, true, true, false]);
    /// ```
    pub fn kept(&self, i: u64) -> bool {
        lane(word(self.key(), i / 4), i % 4) >= self.threshold()
    }

    /// The mask of a tensor of `shape`, flattened in row-major order: 1 where kept, else 0.
    ///
    /// ```
    /// # use ferrotune::{candle_core::{DType, Device}, ops::dropout::Dropout};
    /// let mask = Dropout { p: 0.5, seed: 7 }.mask((2, 4), DType::F32, &Device::Cpu)?;
    /// assert_eq!(mask.to_vec2::<f32>()?, [[1., 0., 1., 1.], [1., 1., 1., 0.]]);
    /// # Ok::<(), ferrotune::Error>(())
    /// ```
    pub fn mask(&self, shape: impl Into<Shape>, dtype: DType, device: &Device) -> Result<Tensor> {
        let shape = shape.into();
        let ones = vec![1f32; shape.elem_count()];
        let mut mask = vec![0f32; ones.len()];
        Mask::of(self).zero(0, &ones, &mut mask);
        Ok(Tensor::from_vec(mask, shape, &Device::Cpu)?.to_device(device)?.to_dtype(dtype)?)
    }

    /// What makes its hashes others than those of another seed.
    pub(in crate::ops) fn key(&self) -> u64 {
        mix(self.seed)
    }

    /// The least lane that is kept.
    pub(in crate::ops) fn threshold(&self) -> u16 {
        (self.p * 65536.).round().min(65535.) as u16
    }
}

/// What the counter is multiplied by: 2^64 over the golden ratio.
pub(in crate::ops) const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
/// What [`mix`] multiplies by.
pub(in crate::ops) const MIX: [u64; 2] = [0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb];

/// The hash of `counter`.
#[inline(always)]
pub(in crate::ops) fn word(key: u64, counter: u64) -> u64 {
    mix(state(key, counter))
}

/// What is hashed.
#[inline(always)]
pub(in crate::ops) fn state(key: u64, counter: u64) -> u64 {
    key.wrapping_add(counter.wrapping_add(1).wrapping_mul(GOLDEN))
}

/// 16 bits of it, the lowest first.
#[inline(always)]
pub(in crate::ops) fn lane(word: u64, lane: u64) -> u16 {
    (word >> (16 * lane)) as u16
}

/// The finaliser of SplitMix64 (Steele, Lea & Flood, 2014; constants by Stafford, "Mix13").
#[inline(always)]
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(MIX[0]);
    z = (z ^ (z >> 27)).wrapping_mul(MIX[1]);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_at_its_rate_in_every_lane_and_independently_between_neighbours_and_seeds() {
        const N: u64 = 200_000;
        for p in [0.05f32, 0.3, 0.5] {
            let (a, b) = (Dropout { p, seed: 1 }, Dropout { p, seed: 2 });
            let p = p as f64;
            // Five standard deviations of a binomial count.
            let check = |name: &str, count: u64, n: u64, p: f64| {
                let (mean, sigma) = (n as f64 * p, (n as f64 * p * (1. - p)).sqrt());
                assert!((count as f64 - mean).abs() < 5. * sigma, "{name}, p = {p}: {count} of {n}");
            };
            let dropped = |d: Dropout, i: u64| !d.kept(i);
            for lane in 0..4 {
                let count = (0..N / 4).filter(|i| dropped(a, 4 * i + lane)).count() as u64;
                check("lane", count, N / 4, p);
            }
            for distance in [1, 2, 3, 4, 64, 576] {
                let both = (0..N).filter(|&i| dropped(a, i) && dropped(a, i + distance)).count() as u64;
                check("neighbours", both, N, p * p);
            }
            let both = (0..N).filter(|&i| dropped(a, i) && dropped(b, i)).count() as u64;
            check("seeds", both, N, p * p);
        }
    }

    #[test]
    fn zero_probability_keeps_everything_and_one_is_refused() {
        assert!((0..1000).all(|i| Dropout { p: 0., seed: 5 }.kept(i)));
        for p in [1., -0.1, f32::NAN] {
            assert!(Dropout { p, seed: 0 }.check().is_err(), "{p}");
        }
    }
}
