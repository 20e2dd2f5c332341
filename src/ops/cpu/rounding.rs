//! f32 rounded to bf16, many numbers at a time: where the processor has AVX512-BF16, 32 by one instruction.
//!
//! [`Element::of`] is what it is compared with. The instruction takes numbers below 2^-126 for zero.

use crate::ops::cpu::element::Element;
use crate::ops::cpu::simd::vectorized;
use half::bf16;

/// Rounds to nearest, ties to even. Panics unless both are of one length.
pub(crate) fn round(from: &[f32], to: &mut [bf16]) {
    assert_eq!(from.len(), to.len(), "one number for each");
    #[cfg(target_arch = "x86_64")]
    if crate::device::Isa::in_use() >= crate::device::Isa::Avx512Bf16
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bf16")
    {
        // SAFETY: the processor has the instructions.
        return unsafe { by_instruction(from, to) };
    }
    one_by_one(from, to);
}

fn one_by_one(from: &[f32], to: &mut [bf16]) {
    vectorized(
        #[inline(always)]
        || from.iter().zip(to.iter_mut()).for_each(|(from, to)| *to = bf16::of(*from)),
    );
}

/// # Safety
/// The processor has the instructions.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn by_instruction(from: &[f32], to: &mut [bf16]) {
    use std::arch::x86_64::{__m512bh, __m512i, _mm512_cvtne2ps_pbh, _mm512_loadu_ps, _mm512_storeu_si512};
    let ((from, from_rest), (to, to_rest)) = (from.as_chunks::<32>(), to.as_chunks_mut::<32>());
    for (from, to) in from.iter().zip(to) {
        // SAFETY: 32 floats are read, and 32 numbers of 16 bits written; any bits are such a number.
        unsafe {
            let (low, high) = (_mm512_loadu_ps(from.as_ptr()), _mm512_loadu_ps(from.as_ptr().add(16)));
            let words = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
            _mm512_storeu_si512(to.as_mut_ptr().cast(), words);
        }
    }
    from_rest.iter().zip(to_rest).for_each(|(from, to)| *to = bf16::of(*from));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_are_rounded_as_one_is() {
        let numbers = (0..=u16::MAX).flat_map(|high| [0u32, 1, 0x7fff, 0x8000, 0x8001, 0xffff].map(|low| (high, low)));
        let from = numbers.map(|(high, low)| f32::from_bits(u32::from(high) << 16 | low)).collect::<Vec<_>>();
        for from in [&from[..], &from[..1000], &from[3..50], &from[..0]] {
            let (mut got, mut want) = (vec![bf16::ZERO; from.len()], vec![bf16::ZERO; from.len()]);
            round(from, &mut got);
            one_by_one(from, &mut want);
            for ((from, got), want) in from.iter().zip(got).zip(want) {
                let tiny = from.abs() < f32::MIN_POSITIVE;
                assert!(
                    got == want || got.is_nan() && want.is_nan() || tiny && got.get() == 0.,
                    "{from:e}: {got}, not {want}"
                );
            }
        }
    }
}
