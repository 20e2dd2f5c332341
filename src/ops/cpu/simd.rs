//! Runs loops compiled for the vector instructions that the machine has.

use pulp::{Arch, Simd, WithSimd};

/// Calls `body`, compiled once for each instruction set; the binary itself is built for the oldest machines.
///
/// `body`, and all that its hot loops call, must be `#[inline(always)]`. Handing the closure to `Arch::dispatch` itself is not
/// enough: called as `FnOnce`, a closure that could be called again goes through a shim that is not inlined, and what is
/// not inlined is compiled for the oldest machines, with each `mul_add` a call into the C library.
#[inline(always)]
pub(crate) fn vectorized<R>(body: impl FnMut() -> R) -> R {
    Arch::new().dispatch(Body(body))
}

struct Body<F>(F);

impl<R, F: FnMut() -> R> WithSimd for Body<F> {
    type Output = R;

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, _: S) -> R {
        (self.0)()
    }
}
