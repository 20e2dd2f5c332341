//! 4-bit block-wise quantization, bit for bit as bitsandbytes does it.

/// See `codebook`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuantType {
    Nf4,
    Fp4,
    Int4,
}
