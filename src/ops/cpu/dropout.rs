//! A dropout mask applied to many elements at a time; `ops::dropout` says what it is.
//!
//! With AVX-512 one register of hashes decides 32 elements by one comparison. Elsewhere the compiler vectorises loops.

use crate::ops::cpu::element::Element;
use crate::ops::cpu::simd::vectorized;
#[cfg(target_arch = "x86_64")]
use crate::ops::dropout::state;
use crate::ops::dropout::{Dropout, lane, word};

/// Elements that are decided together.
const TOGETHER: usize = 32;
/// Hashes that this takes.
const WORDS: usize = TOGETHER / 4;

/// A mask, ready for use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mask {
    key: u64,
    threshold: u16,
    /// The instructions, where this process uses them.
    #[cfg(target_arch = "x86_64")]
    avx512: Option<pulp::x86::V4>,
}

impl Mask {
    pub(crate) fn of(dropout: &Dropout) -> Self {
        Self {
            key: dropout.key(),
            threshold: dropout.threshold(),
            #[cfg(target_arch = "x86_64")]
            avx512: avx512::in_use(),
        }
    }

    /// Copies `from`, elements `first`, `first + 1`, … of the masked tensor, to `to`, zeroing those not kept.
    pub(crate) fn zero<T: Element>(&self, first: u64, from: &[T], to: &mut [T]) {
        vectorized(
            #[inline(always)]
            || self.zero_here(first, from, to),
        );
    }

    /// The same for `width` columns from `first` on of a tensor of `cols` columns, for `[first, cols]`: `from` begins with the
    /// first row's and has the others `cols` apart, `to` has no gaps.
    pub(crate) fn zero_rows<T: Element>(&self, [first, cols]: [usize; 2], from: &[T], to: &mut [T], width: usize) {
        vectorized(
            #[inline(always)]
            || {
                for (i, to) in to.chunks_exact_mut(width).enumerate() {
                    self.zero_here((i * cols + first) as u64, &from[i * cols..][..width], to);
                }
            },
        );
    }

    /// [`Self::zero`] for use inside `vectorized`.
    #[inline(always)]
    fn zero_here<T: Element>(&self, first: u64, from: &[T], to: &mut [T]) {
        let head = (first.wrapping_neg() % 4).min(to.len() as u64) as usize;
        for i in 0..head {
            to[i] = self.one(first + i as u64, from[i]);
        }
        let mut first = first + head as u64;
        let (from, from_rest) = from[head..].as_chunks::<TOGETHER>();
        let (to, to_rest) = to[head..].as_chunks_mut::<TOGETHER>();
        for (from, to) in from.iter().zip(to) {
            self.some(first / 4, from, to);
            first += TOGETHER as u64;
        }
        for (i, (from, to)) in from_rest.iter().zip(to_rest).enumerate() {
            *to = self.one(first + i as u64, *from);
        }
    }

    /// Zeroes those of `values`, elements `first`, `first + 1`, …, that are not kept; for use inside `vectorized`.
    #[inline(always)]
    pub(crate) fn keep(&self, first: u64, values: &mut [f32; TOGETHER]) {
        if first.is_multiple_of(4) {
            let all = *values;
            return self.some(first / 4, &all, values);
        }
        for (i, value) in values.iter_mut().enumerate() {
            *value = self.one(first + i as u64, *value);
        }
    }

    #[inline(always)]
    fn one<T: Element>(&self, i: u64, value: T) -> T {
        if lane(word(self.key, i / 4), i % 4) >= self.threshold { value } else { T::of(0.) }
    }

    /// `from` where the words from `counter` on keep it, else 0.
    #[inline(always)]
    fn some<T: Element>(&self, counter: u64, from: &[T; TOGETHER], to: &mut [T; TOGETHER]) {
        #[cfg(target_arch = "x86_64")]
        if let Some(simd) = self.avx512 {
            return T::select(simd, avx512::kept(simd, state(self.key, counter), self.threshold), from, to);
        }
        let mut words = [0u64; WORDS];
        for (i, w) in words.iter_mut().enumerate() {
            *w = word(self.key, counter + i as u64).to_le();
        }
        // A word's lanes from the lowest on.
        let lanes: [u16; TOGETHER] = pulp::cast(words);
        for i in 0..TOGETHER {
            to[i] = if u16::from_le(lanes[i]) >= self.threshold { from[i] } else { T::of(0.) };
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::WORDS;
    use crate::ops::cpu::simd::arch;
    use crate::ops::dropout::{GOLDEN, MIX};
    use pulp::x86::V4;
    use pulp::{Arch, cast};
    use std::arch::x86_64::__m512i;

    const STEPS: [u64; WORDS] = {
        let mut steps = [0; WORDS];
        let mut i = 0;
        while i < WORDS {
            steps[i] = (i as u64).wrapping_mul(GOLDEN);
            i += 1;
        }
        steps
    };

    pub(super) fn in_use() -> Option<V4> {
        match arch() {
            Arch::V4(simd) => Some(simd),
            _ => None,
        }
    }

    /// Bit i says whether element i is kept, of those that the hashes of `first`, `first` + golden, … decide.
    #[inline(always)]
    pub(super) fn kept(simd: V4, first: u64, threshold: u16) -> u32 {
        let f = simd.avx512f;
        let times = |z: __m512i, factor: u64| simd.avx512dq._mm512_mullo_epi64(z, f._mm512_set1_epi64(factor as i64));
        let z = f._mm512_add_epi64(f._mm512_set1_epi64(first as i64), cast(STEPS));
        let z = times(f._mm512_xor_si512(z, f._mm512_srli_epi64::<30>(z)), MIX[0]);
        let z = times(f._mm512_xor_si512(z, f._mm512_srli_epi64::<27>(z)), MIX[1]);
        let z = f._mm512_xor_si512(z, f._mm512_srli_epi64::<31>(z));
        simd.avx512bw._mm512_cmpge_epu16_mask(z, f._mm512_set1_epi16(threshold as i16))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    /// With the instructions of this machine, and without.
    fn masks(dropout: Dropout) -> Vec<Mask> {
        let mask = Mask::of(&dropout);
        vec![
            mask,
            #[cfg(target_arch = "x86_64")]
            Mask { avx512: None, ..mask },
        ]
    }

    fn check_ranges<T: Element>() {
        let dropout = Dropout { p: 0.4, seed: 3 };
        for mask in masks(dropout) {
            let values: Vec<T> = (1..=300).map(|i| T::of(i as f32)).collect();
            for (first, len) in [(0, 300), (1, 299), (3, 2), (6, 129), (127, 66), (5, 0)] {
                let mut got = vec![T::of(9.); len];
                mask.zero(first, &values[..len], &mut got);
                for (i, (&got, &value)) in got.iter().zip(&values).enumerate() {
                    let want = if dropout.kept(first + i as u64) { value } else { T::of(0.) };
                    assert!(got == want, "element {i} from {first}: {got}, not {want}");
                }
            }
        }
    }

    #[test]
    fn a_range_is_masked_as_its_elements_are() {
        check_ranges::<f32>();
        check_ranges::<bf16>();
    }

    #[test]
    fn some_columns_are_masked_as_in_the_whole() {
        let dropout = Dropout { p: 0.4, seed: 3 };
        let (rows, cols, first, width) = (5, 203, 64, 128);
        for mask in masks(dropout) {
            let mut got = vec![9f32; rows * width];
            mask.zero_rows([first, cols], &vec![1f32; rows * cols][first..], &mut got, width);
            for (i, &v) in got.iter().enumerate() {
                assert_eq!(v == 1., dropout.kept((i / width * cols + first + i % width) as u64), "element {i}");
            }
        }
    }

    #[test]
    fn a_row_of_a_tile_is_masked_in_place() {
        let dropout = Dropout { p: 0.4, seed: 3 };
        for mask in masks(dropout) {
            for first in [0u64, 3, 4, 576, 10_004] {
                let mut got: [f32; TOGETHER] = std::array::from_fn(|i| i as f32);
                vectorized(
                    #[inline(always)]
                    || mask.keep(first, &mut got),
                );
                for (i, got) in got.into_iter().enumerate() {
                    let want = if dropout.kept(first + i as u64) { i as f32 } else { 0. };
                    assert_eq!(got, want, "element {i} from {first}");
                }
            }
        }
    }
}
