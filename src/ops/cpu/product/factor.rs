//! Which kernel multiplies numbers of which type.

#[cfg(target_arch = "x86_64")]
use super::amx::{Amx, Hardware};
#[cfg(target_arch = "x86_64")]
use super::avx512bf16::Avx512Bf16;
use super::kernel::Kernel;
use super::lanes::Lanes;
use super::operand::Operand;
use super::scalar::Scalar;
use super::{Into, Job};
use crate::device::Isa;
use crate::ops::cpu::element::Element;
use crate::ops::cpu::simd::arch;
use half::bf16;

/// A type of matrices that can be multiplied.
pub(crate) trait Factor: Element {
    /// A matrix of this type as a product's destination.
    fn into(values: &mut [Self]) -> Into<'_>;

    /// Computes a product with the best kernel that this process may use.
    fn multiply(job: Job<Self>);

    /// Makes the calling thread ready for products of this type until the result is dropped: worth it around many small
    /// ones.
    fn hold() -> Hold;
}

/// See [`Factor::hold`].
pub(crate) struct Hold {
    #[cfg(target_arch = "x86_64")]
    _amx: Option<Hardware>,
}

impl Factor for f32 {
    fn into(values: &mut [f32]) -> Into<'_> {
        Into::F32(values)
    }

    fn multiply(job: Job<f32>) {
        in_f32(job);
    }

    fn hold() -> Hold {
        Hold {
            #[cfg(target_arch = "x86_64")]
            _amx: None,
        }
    }
}

impl Factor for bf16 {
    fn into(values: &mut [bf16]) -> Into<'_> {
        Into::Bf16(values)
    }

    fn multiply(job: Job<bf16>) {
        #[cfg(target_arch = "x86_64")]
        {
            if let Some(kernel) = amx() {
                return job.run(kernel);
            }
            if Isa::in_use() >= Isa::Avx512Bf16
                && let Some(kernel) = Avx512Bf16::new()
            {
                return job.run(kernel);
            }
        }
        in_f32(job);
    }

    fn hold() -> Hold {
        Hold {
            #[cfg(target_arch = "x86_64")]
            _amx: amx().map(Kernel::hold),
        }
    }
}

/// The kernel for AMX, where this process may use it.
#[cfg(target_arch = "x86_64")]
fn amx() -> Option<Amx<Hardware>> {
    (Isa::in_use() >= Isa::Amx).then(Amx::new)?
}

fn in_f32<T: Factor + Operand<f32>>(job: Job<T>) {
    match Lanes::new(arch()) {
        Some(kernel) => job.run(kernel),
        None => job.run(Scalar::<f32, 1>::default()),
    }
}
