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
use crate::ops::cpu::simd::vectorized;
use candle_core::{DType, Device, Shape, Tensor};

/// Zeroes each element with probability `p`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Probability that an element is zeroed, in [0, 1), rounded to a multiple of 1/65536.
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
        keeps(word(mix(self.seed), i / 4), (i % 4) as u32, self.threshold())
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
        self.zero(0, &ones, &mut mask);
        Ok(Tensor::from_vec(mask, shape, &Device::Cpu)?.to_device(device)?.to_dtype(dtype)?)
    }

    /// Adds to `to` those of `from` that are kept of elements `first` to `first + 31`.
    #[inline(always)]
    pub(in crate::ops) fn add_kept(&self, first: u64, from: &[f32; 32], to: &mut [f32; 32]) {
        if !first.is_multiple_of(4) {
            for i in 0..32 {
                to[i] += if self.kept(first + i as u64) { from[i] } else { 0. };
            }
            return;
        }
        let (key, threshold) = (mix(self.seed), self.threshold());
        let mut words = [0u64; 8];
        for (i, w) in words.iter_mut().enumerate() {
            *w = word(key, first / 4 + i as u64).to_le();
        }
        let lanes: [u16; 32] = pulp::cast(words);
        for i in 0..32 {
            to[i] += if u16::from_le(lanes[i]) as u32 >= threshold { from[i] } else { 0. };
        }
    }

    /// Copies `from`, elements `first`, `first + 1`, … of the masked tensor, to `to`, zeroing those not kept.
    pub(crate) fn zero<T: Copy + Default>(&self, first: u64, from: &[T], to: &mut [T]) {
        vectorized(
            #[inline(always)]
            || self.zero_inlined(first, from, to),
        );
    }

    /// The same for `width` columns from `first` on of a tensor of `cols` columns, for `[first, cols]`: `from` begins with the
    /// first row's and has the others `cols` apart, `to` has no gaps.
    pub(crate) fn zero_rows<T: Copy + Default>(
        &self,
        [first, cols]: [usize; 2],
        from: &[T],
        to: &mut [T],
        width: usize,
    ) {
        vectorized(
            #[inline(always)]
            || {
                for (i, to) in to.chunks_exact_mut(width).enumerate() {
                    self.zero_inlined((i * cols + first) as u64, &from[i * cols..][..width], to);
                }
            },
        );
    }

    #[inline(always)]
    fn zero_inlined<T: Copy + Default>(&self, first: u64, from: &[T], to: &mut [T]) {
        let zero = T::default();
        const WORDS: usize = 16;
        let (key, threshold) = (mix(self.seed), self.threshold());
        let head = (first.wrapping_neg() % 4).min(to.len() as u64) as usize;
        for i in 0..head {
            to[i] = if self.kept(first + i as u64) { from[i] } else { zero };
        }
        let (from, to) = (&from[head..], &mut to[head..]);
        let mut counter = (first + head as u64) / 4;
        let mut from_blocks = from.chunks_exact(4 * WORDS);
        let mut to_blocks = to.chunks_exact_mut(4 * WORDS);
        for (from, to) in from_blocks.by_ref().zip(to_blocks.by_ref()) {
            let mut words = [0u64; WORDS];
            for (i, w) in words.iter_mut().enumerate() {
                *w = word(key, counter + i as u64);
            }
            // A word's lanes from the lowest on, side by side, so that the comparisons are one instruction.
            let lanes: [u16; 4 * WORDS] = pulp::cast(words.map(u64::to_le));
            for i in 0..4 * WORDS {
                to[i] = if u16::from_le(lanes[i]) as u32 >= threshold { from[i] } else { zero };
            }
            counter += WORDS as u64;
        }
        for (i, (from, to)) in from_blocks.remainder().iter().zip(to_blocks.into_remainder()).enumerate() {
            *to = if keeps(word(key, counter + i as u64 / 4), i as u32 % 4, threshold) { *from } else { zero };
        }
    }

    fn threshold(&self) -> u32 {
        (self.p * 65536.).round() as u32
    }
}

#[inline(always)]
fn keeps(word: u64, lane: u32, threshold: u32) -> bool {
    (word >> (16 * lane)) as u32 & 0xffff >= threshold
}

#[inline(always)]
fn word(key: u64, counter: u64) -> u64 {
    mix(key.wrapping_add(counter.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

/// The finaliser of SplitMix64 (Steele, Lea & Flood, 2014; constants by Stafford, "Mix13").
#[inline(always)]
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_masked_as_its_elements_are() {
        let dropout = Dropout { p: 0.4, seed: 3 };
        let ones = [1f32; 300];
        for (first, len) in [(0, 300), (1, 299), (3, 2), (6, 129), (127, 66), (5, 0)] {
            let mut got = vec![9f32; len];
            dropout.zero(first, &ones[..len], &mut got);
            for (i, &v) in got.iter().enumerate() {
                assert_eq!(v == 1., dropout.kept(first + i as u64), "element {i} from {first}");
            }
        }
    }

    #[test]
    fn some_columns_are_masked_as_in_the_whole() {
        let dropout = Dropout { p: 0.4, seed: 3 };
        let (rows, cols, first, width) = (5, 203, 64, 128);
        let mut got = vec![9f32; rows * width];
        dropout.zero_rows([first, cols], &vec![1f32; rows * cols][first..], &mut got, width);
        for (i, &v) in got.iter().enumerate() {
            assert_eq!(v == 1., dropout.kept((i / width * cols + first + i % width) as u64), "element {i}");
        }
    }

    #[test]
    fn what_is_kept_is_added() {
        let dropout = Dropout { p: 0.4, seed: 3 };
        for first in [0u64, 3, 4, 576, 10_004] {
            let mut got = [1f32; 32];
            dropout.add_kept(first, &[2.; 32], &mut got);
            let want: [f32; 32] = std::array::from_fn(|i| if dropout.kept(first + i as u64) { 3. } else { 1. });
            assert_eq!(got, want, "from {first}");
        }
    }

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
