//! The system's allocator, with large memory at the start of a cache line.
//!
//! The processor reads matrices by cache lines: a row of 64 bytes that lies across two of them is read twice, and products
//! take up to twice as long. The system aligns memory to 16 bytes. A program installs this one with
//!
//! ```
//! #[global_allocator]
//! static ALLOCATOR: ferrotune::ops::aligned::Aligned = ferrotune::ops::aligned::Aligned;
//! ```

use std::alloc::{GlobalAlloc, Layout, System};

/// Bytes from which on memory is aligned.
const LARGE: usize = 1024;
/// A cache line.
const LINE: usize = 64;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct Aligned;

/// What the system is asked for in place of `layout`, if memory of this size is aligned here: room to move its start to the
/// next line, after a byte that says how far. (The system's own aligned blocks leave small gaps between them, which cost a
/// fifth more memory over a training run.)
fn roomy(layout: Layout) -> Option<Layout> {
    let large = layout.size() >= LARGE && layout.align() < LINE;
    large.then(|| Layout::from_size_align(layout.size() + LINE, layout.align()).ok()).flatten()
}

/// The first line after the start of memory `at` of a [`roomy`] layout, or null for null.
///
/// # Safety
/// `at` is null, or the memory of such a layout, which is the caller's to write.
unsafe fn moved(at: *mut u8) -> *mut u8 {
    if at.is_null() {
        return at;
    }
    let offset = LINE - at.addr() % LINE;
    // SAFETY: `offset` is 1 to 64, and there are 64 bytes more than were asked for.
    unsafe {
        let to = at.add(offset);
        to.sub(1).write(offset as u8);
        to
    }
}

/// What [`moved`] moved.
///
/// # Safety
/// `at` is a result of it that is not null.
unsafe fn back(at: *mut u8) -> *mut u8 {
    // SAFETY: the byte before `at` says where the memory starts.
    unsafe { at.sub(usize::from(at.sub(1).read())) }
}

/// Gives memory that is free back to the system; glibc keeps it for later otherwise. Elsewhere it does nothing.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: takes no pointers, and touches no memory that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

// SAFETY: every request goes to the system's allocator, which keeps the contract, with the same layout or one that is 64
// bytes larger, a function of the caller's layout alone; of these 64, the block that is given away leaves out those before it.
// A block is aligned to a line, or as the system does it.
unsafe impl GlobalAlloc for Aligned {
    /// # Safety
    /// As the trait's.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the size is the caller's, who promises that it is not zero.
        unsafe {
            match roomy(layout) {
                Some(layout) => moved(System.alloc(layout)),
                None => System.alloc(layout),
            }
        }
    }

    /// # Safety
    /// As the trait's.
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: `alloc` took `at` with this layout.
        unsafe {
            match roomy(layout) {
                Some(layout) => System.dealloc(back(at), layout),
                None => System.dealloc(at, layout),
            }
        }
    }

    /// # Safety
    /// As the trait's.
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as for `alloc`.
        unsafe {
            match roomy(layout) {
                Some(layout) => moved(System.alloc_zeroed(layout)),
                None => System.alloc_zeroed(layout),
            }
        }
    }

    /// # Safety
    /// As the trait's.
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if layout.size().max(size) < LARGE {
            // SAFETY: the system took `at` with this very layout; the rest is the caller's promise.
            return unsafe { System.realloc(at, layout, size) };
        }
        // SAFETY: the caller promises that `size` is not zero and, rounded up to the alignment, no overflow.
        unsafe {
            let to = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !to.is_null() {
                // Both are at least so long, and they are two allocations.
                std::ptr::copy_nonoverlapping(at, to, layout.size().min(size));
                self.dealloc(at, layout);
            }
            to
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_memory_starts_a_line_and_keeps_its_content() {
        let layout = |size| Layout::from_size_align(size, 4).unwrap();
        let mut size = 100;
        // SAFETY: sizes are not zero, layouts are those of the allocation, and only its bytes are touched.
        unsafe {
            let mut at = Aligned.alloc(layout(size));
            at.write_bytes(7, size);
            for next in [900, 1024, 5000, 300_000, 4096, 1000, 64] {
                at = Aligned.realloc(at, layout(size), next);
                assert!(next < LARGE || at.addr().is_multiple_of(LINE));
                assert!(std::slice::from_raw_parts(at, size.min(next).min(64)).iter().all(|&byte| byte == 7));
                size = next;
            }
            Aligned.dealloc(at, layout(size));
            let zeros = Aligned.alloc_zeroed(layout(1 << 20));
            assert!(zeros.addr().is_multiple_of(LINE));
            assert!(std::slice::from_raw_parts(zeros, 1 << 20).iter().all(|&byte| byte == 0));
            Aligned.dealloc(zeros, layout(1 << 20));
        }
    }
}
