//! Decodes 4-bit blocks from the CPU's memory; see `ops::weight` for the arithmetic.

use crate::ops::cpu::simd::vectorized;
use crate::ops::cpu::slice::Slice;
use rayon::prelude::*;

/// A quantized weight's memory, locked for reading.
pub(crate) struct Lent<'a> {
    pub(crate) packed: Slice<'a, u8>,
    pub(crate) code: [f32; 16],
    pub(crate) scales: LentScales<'a>,
    pub(crate) blocksize: usize,
}

pub(crate) enum LentScales<'a> {
    Plain(Slice<'a, f32>),
    Nested { codes: Slice<'a, u8>, map: Slice<'a, f32>, absmax: Slice<'a, f32>, blocksize: usize, offset: f32 },
}

impl Lent<'_> {
    pub(crate) fn blocks(&self) -> Blocks<'_> {
        let scales = match &self.scales {
            LentScales::Plain(absmax) => Scales::Plain(absmax),
            LentScales::Nested { codes, map, absmax, blocksize, offset } => {
                Scales::Nested { codes, map, absmax, shift: blocksize.trailing_zeros(), offset: *offset }
            }
        };
        Blocks { packed: &self.packed, code: self.code, scales, shift: self.blocksize.trailing_zeros() }
    }
}

/// A quantized weight as plain slices.
pub(crate) struct Blocks<'a> {
    packed: &'a [u8],
    code: [f32; 16],
    scales: Scales<'a>,
    /// The binary logarithm of the elements that share a scale.
    shift: u32,
}

enum Scales<'a> {
    Plain(&'a [f32]),
    Nested { codes: &'a [u8], map: &'a [f32], absmax: &'a [f32], shift: u32, offset: f32 },
}

impl Blocks<'_> {
    /// How many elements there are, rounded up to an even number.
    pub(crate) fn len(&self) -> usize {
        2 * self.packed.len()
    }

    /// Two elements a byte, the first in the high half.
    pub(crate) fn packed(&self) -> &[u8] {
        self.packed
    }

    /// What the sixteen values of a half are worth before scaling.
    pub(crate) fn code(&self) -> &[f32; 16] {
        &self.code
    }

    /// Elements that share a scale.
    pub(crate) fn blocksize(&self) -> usize {
        1 << self.shift
    }

    /// The block that element `at` is in.
    #[inline(always)]
    pub(crate) fn block_of(&self, at: usize) -> usize {
        at >> self.shift
    }

    /// Writes elements `first`, `first + 1`, … of the flattened matrix, on all threads of the pool.
    pub(crate) fn decode(&self, first: usize, out: &mut [f32]) {
        // A whole number of the usual blocks, of a size that outweighs handing it over.
        const TASK: usize = 1 << 15;
        out.par_chunks_mut(TASK).enumerate().for_each(|(i, out)| {
            vectorized(
                #[inline(always)]
                || self.decode_here(first + i * TASK, out),
            )
        });
    }

    /// [`Blocks::decode`] on the calling thread, for use inside `vectorized`.
    #[inline(always)]
    pub(crate) fn decode_here(&self, first: usize, out: &mut [f32]) {
        let mut at = first;
        let mut out = out;
        while !out.is_empty() {
            let block = self.block_of(at);
            let len = (((block + 1) << self.shift) - at).min(out.len());
            let (now, later) = out.split_at_mut(len);
            self.decode_within_block(at, self.scale(block), now);
            out = later;
            at += len;
        }
    }

    #[inline(always)]
    fn decode_within_block(&self, first: usize, scale: f32, mut out: &mut [f32]) {
        let mut packed = &self.packed[first / 2..];
        if first % 2 == 1 {
            out[0] = self.code[(packed[0] & 15) as usize] * scale;
            (packed, out) = (&packed[1..], &mut out[1..]);
        }
        #[cfg(target_arch = "x86_64")]
        if let Some(simd) = pulp::x86::V3::try_new() {
            let done = avx2::decode(simd, &self.code, packed, scale, out);
            (packed, out) = (&packed[done / 2..], &mut out[done..]);
        }
        let whole = out.len() / 2;
        let mut halves = out.chunks_exact_mut(2);
        for (out, &byte) in halves.by_ref().zip(packed) {
            out[0] = self.code[(byte >> 4) as usize] * scale;
            out[1] = self.code[(byte & 15) as usize] * scale;
        }
        if let [last] = halves.into_remainder() {
            *last = self.code[(packed[whole] >> 4) as usize] * scale;
        }
    }

    /// What the code of block `block` is multiplied by.
    #[inline(always)]
    pub(crate) fn scale(&self, block: usize) -> f32 {
        match self.scales {
            Scales::Plain(absmax) => absmax[block],
            Scales::Nested { codes, map, absmax, shift, offset } => {
                map[codes[block] as usize] * absmax[block >> shift] + offset
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use pulp::cast;
    use pulp::x86::V3;
    use std::arch::x86_64::{__m256, __m256i};

    /// Decodes as many whole groups of 16 elements as there are; returns how many elements that is.
    ///
    /// A vector permutation looks up three bits of an index, so there are two tables, and the fourth bit, moved to the sign,
    /// picks between the two results. The tables are scaled first: every element is still one rounded product.
    #[inline(always)]
    pub(super) fn decode(simd: V3, code: &[f32; 16], packed: &[u8], scale: f32, out: &mut [f32]) -> usize {
        let table = |from: usize| cast::<[f32; 8], __m256>(std::array::from_fn(|i| code[from + i] * scale));
        let (low_codes, high_codes) = (table(0), table(8));
        let look_up = |index: __m256i, fourth_bit: __m256i| {
            let low = simd.avx2._mm256_permutevar8x32_ps(low_codes, index);
            let high = simd.avx2._mm256_permutevar8x32_ps(high_codes, index);
            simd.avx._mm256_blendv_ps(low, high, cast(fourth_bit))
        };
        let (groups, _) = out.as_chunks_mut::<16>();
        for (out, &bytes) in groups.iter_mut().zip(packed.as_chunks::<8>().0) {
            let bytes = simd.avx2._mm256_cvtepu8_epi32(simd.sse2._mm_set_epi64x(0, i64::from_le_bytes(bytes)));
            let even_index = simd.avx2._mm256_srli_epi32::<4>(bytes);
            let even = look_up(even_index, simd.avx2._mm256_slli_epi32::<24>(bytes));
            let odd = look_up(bytes, simd.avx2._mm256_slli_epi32::<28>(bytes));
            // Both halves of a vector are interleaved for themselves, then put in order.
            let (a, b) = (simd.avx._mm256_unpacklo_ps(even, odd), simd.avx._mm256_unpackhi_ps(even, odd));
            let first = simd.avx._mm256_permute2f128_ps::<0x20>(a, b);
            let second = simd.avx._mm256_permute2f128_ps::<0x31>(a, b);
            *out = cast([first, second]);
        }
        16 * groups.len()
    }
}
