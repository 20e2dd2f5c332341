//! The six training operations, and DoRA over one of them.

pub mod aligned;
mod cpu;
pub(crate) mod mmap;

pub mod attention;
pub mod dora;
pub mod dropout;
pub mod gather;
pub mod graph;
pub mod linear_cross_entropy;
pub mod qlora_linear;
pub mod residual;
pub mod rms_norm;
pub mod rope;
pub mod swiglu;
pub mod weight;
