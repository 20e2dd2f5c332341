//! The six training operations.

mod cpu;
pub(crate) mod mmap;

pub mod attention;
pub mod dropout;
pub mod graph;
pub mod linear_cross_entropy;
pub mod qlora_linear;
pub mod residual;
pub mod rms_norm;
pub mod rope;
pub mod swiglu;
pub mod weight;

/// Whether `device` multiplies bf16 faster than f32: an NVIDIA GPU, or a processor with instructions for it.
pub fn multiplies_bf16(device: &candle_core::Device) -> bool {
    device.is_cuda() || device.is_cpu() && cpu::product::is_fast()
}
