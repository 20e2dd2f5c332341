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
    /// A result that is rounded to this type.
    fn into(out: &mut [Self]) -> Into<'_>;

    /// Runs `work` with the best kernel that this process may use.
    fn with_kernel<W: WithKernel<Self>>(work: W) -> W::Output;
}

/// Work that a kernel is chosen for.
pub(crate) trait WithKernel<T> {
    /// What comes of it.
    type Output;

    /// Does it.
    fn run<K: Kernel>(self, kernel: K) -> Self::Output
    where
        T: Operand<K::Number>;
}

impl Factor for f32 {
    fn into(out: &mut [f32]) -> Into<'_> {
        Into::F32(out)
    }

    fn with_kernel<W: WithKernel<f32>>(work: W) -> W::Output {
        in_f32(work)
    }
}

impl Factor for bf16 {
    fn into(out: &mut [bf16]) -> Into<'_> {
        Into::Bf16(out)
    }

    fn with_kernel<W: WithKernel<bf16>>(work: W) -> W::Output {
        #[cfg(target_arch = "x86_64")]
        {
            if Isa::in_use() >= Isa::Amx
                && let Some(kernel) = Amx::<Hardware>::new()
            {
                return work.run(kernel);
            }
            if Isa::in_use() >= Isa::Avx512Bf16
                && let Some(kernel) = Avx512Bf16::new()
            {
                return work.run(kernel);
            }
        }
        in_f32(work)
    }
}

fn in_f32<T: Operand<f32>, W: WithKernel<T>>(work: W) -> W::Output {
    match Lanes::new(arch()) {
        Some(kernel) => work.run(kernel),
        None => work.run(Scalar::<f32, 1>::default()),
    }
}

impl<T: Factor> WithKernel<T> for Job<'_, T> {
    type Output = ();

    fn run<K: Kernel>(self, kernel: K)
    where
        T: Operand<K::Number>,
    {
        Job::run(self, kernel);
    }
}
