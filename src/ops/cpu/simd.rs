//! Runs loops compiled for the vector instructions that the machine has.

use crate::device::Isa;
use pulp::{Arch, Simd, WithSimd};

/// Calls `body`, compiled once for each instruction set; the binary itself is built for the oldest machines.
///
/// `body`, and all that its hot loops call, must be `#[inline(always)]`. Handing the closure to `Arch::dispatch` itself is not
/// enough: called as `FnOnce`, a closure that could be called again goes through a shim that is not inlined, and what is
/// not inlined is compiled for the oldest machines, with each `mul_add` a call into the C library.
#[inline(always)]
pub(crate) fn vectorized<R>(body: impl FnMut() -> R) -> R {
    arch().dispatch(Body(body))
}

/// What loops are compiled for, at most what `FERROTUNE_ISA` allows.
#[inline(always)]
pub(crate) fn arch() -> Arch {
    match Isa::in_use() {
        Isa::Portable => Arch::Scalar,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => pulp::x86::V3::try_new().map_or(Arch::Scalar, Arch::V3),
        _ => Arch::new(),
    }
}

struct Body<F>(F);

impl<R, F: FnMut() -> R> WithSimd for Body<F> {
    type Output = R;

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, _: S) -> R {
        (self.0)()
    }
}
