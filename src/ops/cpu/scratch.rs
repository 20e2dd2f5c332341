//! The fused operations' scratch memory: one pool of buffers for each thread and type, kept between calls.
//!
//! A buffer is taken out of the pool while it is lent. So an operation may lend several, and one that rayon starts on
//! a thread that waits inside another gets buffers of its own. The pool of a thread grows to what one
//! micro-batch needs and is freed with the thread.

use half::bf16;
use std::cell::RefCell;
use std::thread::LocalKey;

/// A type that has a pool.
pub(crate) trait Pool: Copy + Default + 'static {
    /// The calling thread's buffers.
    fn pool() -> &'static LocalKey<RefCell<Vec<Vec<Self>>>>;
}

impl Pool for f32 {
    fn pool() -> &'static LocalKey<RefCell<Vec<Vec<Self>>>> {
        thread_local!(static POOL: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) });
        &POOL
    }
}

impl Pool for bf16 {
    fn pool() -> &'static LocalKey<RefCell<Vec<Vec<Self>>>> {
        thread_local!(static POOL: RefCell<Vec<Vec<bf16>>> = const { RefCell::new(Vec::new()) });
        &POOL
    }
}

/// Calls `body` with `len` numbers of unspecified value.
pub(crate) fn with<T: Pool, R>(len: usize, body: impl FnOnce(&mut [T]) -> R) -> R {
    let mut buffer = T::pool().with_borrow_mut(|pool| {
        let fits = (0..pool.len()).filter(|&i| pool[i].len() >= len).min_by_key(|&i| pool[i].len());
        match fits {
            Some(i) => pool.swap_remove(i),
            None => pool.pop().unwrap_or_default(),
        }
    });
    if buffer.len() < len {
        // Fresh memory; growing would copy what nobody reads.
        buffer = vec![T::default(); len];
    }
    let result = body(&mut buffer[..len]);
    T::pool().with_borrow_mut(|pool| pool.push(buffer));
    result
}

#[cfg(test)]
mod tests {
    #[test]
    fn nested_buffers_are_distinct_and_reused() {
        let outer = super::with(8, |a| {
            a.fill(1f32);
            super::with(4, |b| b.fill(2f32));
            assert_eq!(a, [1.; 8]);
            a.as_ptr()
        });
        super::with(8, |a: &mut [f32]| assert_eq!(a.as_ptr(), outer));
    }
}
