//! The fused forms of the operations for the CPU: f32 or bf16, contiguous, rayon over rows, hot loops compiled for the
//! machine's own vector instructions through `pulp`. Every result is a function of the inputs and the thread count.

pub(crate) mod attention;
pub(crate) mod decode;
pub(crate) mod dropout;
pub(crate) mod element;
pub(crate) mod exp;
pub(crate) mod gather;
pub(crate) mod linear_cross_entropy;
pub(crate) mod product;
pub(crate) mod qlora_linear;
pub(crate) mod residual;
pub(crate) mod rms_norm;
pub(crate) mod rope;
pub(crate) mod rounding;
pub(crate) mod scratch;
pub(crate) mod simd;
pub(crate) mod slice;
pub(crate) mod swiglu;
pub(crate) mod transpose;
pub(crate) mod unspecified;
