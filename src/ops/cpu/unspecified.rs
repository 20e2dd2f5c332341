//! Memory for results, which nobody has to fill before they are written.
//!
//! A result of some megabytes that is filled with zeros first goes through the memory once more than it has to.

use crate::ops::cpu::element::Element;
use std::arch::asm;

/// `len` numbers of unspecified value, for a caller that overwrites each of them. NaN in unoptimised builds, so that tests
/// find one that is not.
pub(crate) fn numbers<T: Element>(len: usize) -> Vec<T> {
    if cfg!(debug_assertions) {
        return vec![T::of(f32::NAN); len];
    }
    let mut numbers = Vec::<T>::with_capacity(len);
    // SAFETY: the capacity is `len`. The assembly counts as code that may have written to all memory whose address it is
    // given, so what lies there is initialised as far as the compiler knows: with what was in the memory before, which the
    // allocator has mapped. Every pattern of bits is a number of T, which is f32 or bf16 (`Element` is private here, and
    // has no other implementors).
    unsafe {
        asm!("/* {0} */", in(reg) numbers.as_mut_ptr(), options(nostack, preserves_flags));
        numbers.set_len(len);
    }
    numbers
}
