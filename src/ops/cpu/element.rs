//! The float types that activations have in the CPU's memory; all arithmetic is in f32.

use crate::ops::cpu::scratch::Pool;
use crate::ops::cpu::simd::vectorized;
use crate::ops::cpu::{rounding, unspecified};
use candle_core::{Device, Shape, Tensor, WithDType};
use half::bf16;
#[cfg(target_arch = "x86_64")]
use half::slice::HalfFloatSliceExt;
#[cfg(target_arch = "x86_64")]
use pulp::{cast, x86::V4};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m512, __m512i};
use std::ops::Range;

/// A number as it is stored.
pub(crate) trait Element: WithDType + Pool {
    /// What it is worth.
    fn get(self) -> f32;

    /// `value`, rounded to the nearest number of this type, ties to even.
    fn of(value: f32) -> Self;

    /// Writes all of `from`, rounded as by [`Self::of`], to `to`, which is as long.
    fn put(from: &[f32], to: &mut [Self]);

    /// Writes element i of `from` to `to` if bit i of `kept` is set, else 0; for use inside `vectorized`.
    #[cfg(target_arch = "x86_64")]
    fn select(simd: V4, kept: u32, from: &[Self; 32], to: &mut [Self; 32]);
}

impl Element for f32 {
    #[inline(always)]
    fn get(self) -> f32 {
        self
    }

    #[inline(always)]
    fn of(value: f32) -> Self {
        value
    }

    fn put(from: &[f32], to: &mut [Self]) {
        to.copy_from_slice(from);
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn select(simd: V4, kept: u32, from: &[Self; 32], to: &mut [Self; 32]) {
        let [low, high]: [__m512; 2] = cast(*from);
        let half = |kept: u32, values| simd.avx512f._mm512_maskz_mov_ps(kept as u16, values);
        *to = cast([half(kept, low), half(kept >> 16, high)]);
    }
}

impl Element for bf16 {
    #[inline(always)]
    fn get(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    /// Without a branch, unlike `bf16::from_f32`, so that loops over it become vector instructions.
    #[inline(always)]
    fn of(value: f32) -> Self {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        let quiet = (bits >> 16) | 0x40;
        bf16::from_bits(if value.is_nan() { quiet } else { rounded } as u16)
    }

    fn put(from: &[f32], to: &mut [Self]) {
        rounding::round(from, to);
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn select(simd: V4, kept: u32, from: &[Self; 32], to: &mut [Self; 32]) {
        let mut words = [0u16; 32];
        words.copy_from_slice(from.reinterpret_cast());
        let words: [u16; 32] = cast(simd.avx512bw._mm512_maskz_mov_epi16(kept, cast::<_, __m512i>(words)));
        to.reinterpret_cast_mut().copy_from_slice(&words);
    }
}

/// `values`, rounded.
pub(crate) fn rounded<T: Element>(values: &[f32]) -> Vec<T> {
    let mut rounded = unspecified::numbers(values.len());
    T::put(values, &mut rounded);
    rounded
}

/// Elements that [`fill`] takes at a time.
pub(crate) const TOGETHER: usize = 512;

/// Fills `out`, [`TOGETHER`] elements at a time, with what `values` writes for a range of them. `values` is compiled for the
/// machine's vector instructions, as by [`vectorized`].
#[inline(always)]
pub(crate) fn fill<T: Element>(out: &mut [T], mut values: impl FnMut(Range<usize>, &mut [f32])) {
    let mut wide = [0f32; TOGETHER];
    for (i, out) in out.chunks_mut(TOGETHER).enumerate() {
        let (range, wide) = (i * TOGETHER..i * TOGETHER + out.len(), &mut wide[..out.len()]);
        vectorized(
            #[inline(always)]
            || values(range.clone(), wide),
        );
        T::put(wide, out);
    }
}

/// A tensor in the CPU's memory.
pub(crate) fn tensor<T: Element>(values: Vec<T>, shape: impl Into<Shape>) -> candle_core::Result<Tensor> {
    let shape: Shape = shape.into();
    Tensor::from_vec(values, shape, &Device::Cpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_as_half_does() {
        for i in 0..=u16::MAX {
            for low in [0u32, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let value = f32::from_bits(u32::from(i) << 16 | low);
                let (ours, theirs) = (bf16::of(value), bf16::from_f32(value));
                assert!(ours == theirs || ours.is_nan() && theirs.is_nan(), "{value}: {ours}, not {theirs}");
                assert_eq!(ours.get().to_bits(), ours.to_f32().to_bits());
            }
        }
    }
}
