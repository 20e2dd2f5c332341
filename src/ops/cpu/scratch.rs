//! The fused operations' scratch memory: one pool of buffers for each thread, kept between calls.
//!
//! A buffer is taken out of the pool while it is lent. So an operation may lend several, and one that rayon starts on
//! a thread that waits inside another gets buffers of its own. The pool of a thread grows to what one
//! micro-batch needs and is freed with the thread.

use std::cell::RefCell;

thread_local! {
    static POOL: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Calls `body` with `len` floats of unspecified content.
pub(crate) fn with<R>(len: usize, body: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut buffer = POOL.with_borrow_mut(|pool| {
        let fits = (0..pool.len()).filter(|&i| pool[i].len() >= len).min_by_key(|&i| pool[i].len());
        match fits {
            Some(i) => pool.swap_remove(i),
            None => pool.pop().unwrap_or_default(),
        }
    });
    if buffer.len() < len {
        // Fresh zeros come from the system for nothing; growing would copy what nobody reads.
        buffer = vec![0.; len];
    }
    let result = body(&mut buffer[..len]);
    POOL.with_borrow_mut(|pool| pool.push(buffer));
    result
}

#[cfg(test)]
mod tests {
    #[test]
    fn nested_buffers_are_distinct_and_reused() {
        let outer = super::with(8, |a| {
            a.fill(1.);
            super::with(4, |b| b.fill(2.));
            assert_eq!(a, [1.; 8]);
            a.as_ptr()
        });
        super::with(8, |a| assert_eq!(a.as_ptr(), outer));
    }
}
