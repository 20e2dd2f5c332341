//! The sixteen values each 4-bit type can hold, and how a number finds the nearest of them.
//!
//! A type is a table `code` with `code[nibble]` in -1..=1. Encoding sorts the table once; between two neighbours lies
//! their midpoint, rounded to f32, and a number takes the place given by how many midpoints it exceeds. A number right
//! on a midpoint therefore goes to the lower neighbour. Tables that hold zero twice need no special rule: the midpoint
//! between the two is zero.

use super::QuantType;

/// NormalFloat4: quantiles of a normal distribution, rescaled so that the ends are -1 and 1 and zero is exact.
///
/// Source: Dettmers et al., QLoRA, arXiv:2305.14314, appendix E; digits from bitsandbytes' `get_4bit_type`.
const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// bitsandbytes' FP4, by bit pattern (sign, two exponent bits, one mantissa bit), before it is divided by 12.
const FP4_TIMES_12: [f32; 16] =
    [0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0, 0.0, -0.0625, -8.0, -12.0, -4.0, -6.0, -2.0, -3.0];

impl QuantType {
    /// The value of each nibble, as a share of the block's absmax.
    ///
    /// `Int4` is the evenly spaced symmetric grid -7/7..=7/7, for comparison. bitsandbytes lists this table but neither
    /// quantizes to it nor loads it.
    pub fn code(self) -> [f32; 16] {
        match self {
            Self::Nf4 => NF4,
            Self::Fp4 => FP4_TIMES_12.map(|v| v / 12.0),
            Self::Int4 => std::array::from_fn(|i| if i < 8 { 7.0 - i as f32 } else { 8.0 - i as f32 } / 7.0),
        }
    }
}

/// Finds nibbles for numbers scaled into -1..=1.
#[derive(Clone, Debug)]
pub(super) struct Encoder {
    /// Midpoints between neighbours of the sorted table, ascending.
    pub(super) midpoints: [f32; 15],
    /// The nibble of each place in the sorted table.
    pub(super) nibble: [u8; 16],
}

impl Encoder {
    pub(super) fn new(code: &[f32; 16]) -> Self {
        let mut nibble: [u8; 16] = std::array::from_fn(|i| i as u8);
        nibble.sort_by(|&a, &b| code[a as usize].total_cmp(&code[b as usize]));
        let sorted = nibble.map(|n| code[n as usize]);
        Self { midpoints: std::array::from_fn(|i| (sorted[i] + sorted[i + 1]) / 2.0), nibble }
    }

    /// The nibbles of `x`. Straight-line comparisons, so that the compiler can use vector registers.
    #[inline(always)]
    pub(super) fn encode<const N: usize>(&self, x: [f32; N]) -> [u8; N] {
        let mut place = [0u32; N];
        for midpoint in self.midpoints {
            for (p, v) in place.iter_mut().zip(x) {
                *p += u32::from(v > midpoint);
            }
        }
        place.map(|p| self.nibble[p as usize & 15])
    }
}

/// The two values of each byte, high nibble first.
#[derive(Clone, Debug)]
pub struct PairTable(pub(super) [[f32; 2]; 256]);

impl PairTable {
    /// Spreads sixteen values over the 256 bytes that hold two of them.
    pub fn new(code: &[f32; 16]) -> Self {
        Self(std::array::from_fn(|byte| [code[byte >> 4], code[byte & 15]]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The thresholds written out in bitsandbytes' CUDA kernel (`dQuantizeNF4`).
    const CUDA_NF4: [f32; 15] = [
        -0.848_096_4,
        -0.610_632_9,
        -0.459_995_27,
        -0.339_679_43,
        -0.234_607_4,
        -0.137_911_73,
        -0.045_525_02,
        0.039_790_15,
        0.120_255_25,
        0.203_521_25,
        0.292_013_77,
        0.389_312_54,
        0.501_663_4,
        0.642_786_9,
        0.861_478_4,
    ];

    /// Three of the exact midpoints lie halfway between two f32, and the kernel's decimal digits round those down.
    #[test]
    fn nf4_midpoints_are_the_kernels_thresholds_to_the_last_bit() {
        for (midpoint, threshold) in Encoder::new(&QuantType::Nf4.code()).midpoints.into_iter().zip(CUDA_NF4) {
            assert!(midpoint.to_bits().abs_diff(threshold.to_bits()) <= 1, "{midpoint} {threshold}");
        }
    }

    #[test]
    fn every_code_finds_its_own_value_and_ties_go_down() {
        for quant_type in [QuantType::Nf4, QuantType::Fp4, QuantType::Int4] {
            let code = quant_type.code();
            let encoder = Encoder::new(&code);
            assert_eq!(encoder.encode(code).map(|n| code[n as usize]), code);
            let below = encoder.encode(encoder.midpoints);
            assert_eq!(below[..], encoder.nibble[..15], "{quant_type:?}");
            let above = encoder.encode(encoder.midpoints.map(f32::next_up));
            assert_eq!(above[..], encoder.nibble[1..], "{quant_type:?}");
        }
    }
}
