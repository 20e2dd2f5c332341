//! Products of f32 matrices: checked views over slices, and the one call into the `gemm` crate.

use gemm::Parallelism;
use std::ops::Range;

/// A matrix to read: element `(i, j)` is `data[i * row_stride + j * col_stride]`.
#[derive(Clone, Copy)]
pub(crate) struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Mat<'a> {
    /// All of `data` as a row-major matrix. Panics unless it has `rows * cols` elements.
    pub(crate) fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(Some(data.len()), rows.checked_mul(cols), "a {rows} x {cols} matrix");
        Self { data, rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// Panics if an element would lie outside `data`.
    #[cfg(test)]
    pub(crate) fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize, col_stride: usize) -> Self {
        assert!(span(rows, cols, row_stride, col_stride).is_some_and(|n| n <= data.len()), "a view outside its slice");
        Self { data, rows, cols, row_stride, col_stride }
    }

    /// Rows that start `stride` elements apart. Panics if an element would lie outside `data`.
    pub(crate) fn rows(data: &'a [f32], rows: usize, cols: usize, stride: usize) -> Self {
        assert!(span(rows, cols, stride, 1).is_some_and(|n| n <= data.len()), "a view outside its slice");
        Self { data, rows, cols, row_stride: stride, col_stride: 1 }
    }

    pub(crate) fn row_count(&self) -> usize {
        self.rows
    }

    pub(crate) fn column_count(&self) -> usize {
        self.cols
    }

    /// Some of the columns of a row-major matrix.
    pub(crate) fn columns(self, range: Range<usize>) -> Self {
        assert!(self.col_stride == 1 && range.start <= range.end && range.end <= self.cols, "columns outside a matrix");
        let data = if self.rows == 0 { self.data } else { &self.data[range.start..] };
        Self { data, cols: range.len(), ..self }
    }

    /// The transpose, without a copy.
    pub(crate) fn t(self) -> Self {
        let Self { data, rows, cols, row_stride, col_stride } = self;
        Self { data, rows: cols, cols: rows, row_stride: col_stride, col_stride: row_stride }
    }
}

/// A matrix to write, whose rows are contiguous: element `(i, j)` is `data[i * row_stride + j]`.
pub(crate) struct MatMut<'a> {
    data: &'a mut [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
}

impl<'a> MatMut<'a> {
    /// All of `data` as a row-major matrix. Panics unless it has `rows * cols` elements.
    pub(crate) fn new(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(Some(data.len()), rows.checked_mul(cols), "a {rows} x {cols} matrix");
        Self { data, rows, cols, row_stride: cols }
    }

    /// `cols` columns of a row-major matrix that has `row_stride` of them, the first of which is `data[0]`.
    /// Panics if rows would overlap or lie outside `data`.
    pub(crate) fn columns(data: &'a mut [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(cols <= row_stride, "rows of {cols} elements every {row_stride} overlap");
        assert!(span(rows, cols, row_stride, 1).is_some_and(|n| n <= data.len()), "a view outside its slice");
        Self { data, rows, cols, row_stride }
    }
}

/// How many elements a view reaches over; `None` if that overflows an `isize`.
fn span(rows: usize, cols: usize, row_stride: usize, col_stride: usize) -> Option<usize> {
    if rows == 0 || cols == 0 {
        return Some(0);
    }
    let last = (rows - 1).checked_mul(row_stride)?.checked_add((cols - 1).checked_mul(col_stride)?)?;
    last.checked_add(1).filter(|&n| n <= isize::MAX as usize)
}

/// What happens to the destination's old elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Old {
    Overwrite,
    Add,
}

/// Which threads a product runs on.
#[derive(Clone, Copy)]
pub(crate) enum Threads {
    /// Only the calling one; for use inside a rayon task.
    One,
    /// Those of the current rayon pool.
    Pool,
}

/// `c = scale * a * b`, plus the old `c` for [`Old::Add`].
///
/// `a` [m, k], `b` [k, n], `c` [m, n]. With k = 0 the product is zero. Panics if the shapes do not fit together.
pub(crate) fn gemm(scale: f32, a: Mat, b: Mat, c: MatMut, old: Old, threads: Threads) {
    let (m, n, k) = (c.rows, c.cols, a.cols);
    assert!(a.rows == m && b.cols == n && b.rows == k, "{}x{k} times {}x{} into {m}x{n}", a.rows, b.rows, b.cols);
    if m == 0 || n == 0 {
        return;
    }
    let parallelism = match threads {
        Threads::One => Parallelism::None,
        // 0 stands for as many as the pool has.
        Threads::Pool => Parallelism::Rayon(0),
    };
    // The crate computes c = alpha * c + beta * a * b, and reads c and alpha only if told to.
    //
    // SAFETY: the constructors have checked that every element of the three views lies inside its slice and that the
    // offsets fit an `isize`; the slices outlive the call. `c` is borrowed mutably, so it aliases neither `a` nor `b`,
    // and its rows do not overlap (`cols <= row_stride`), so no two threads write one element. All elements are
    // initialised floats.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.data.as_mut_ptr(),
            1,
            c.row_stride as isize,
            old == Old::Add,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Uniform in [-0.5, 0.5].
    pub(crate) fn values(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2_654_435_761) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as f32 / u32::MAX as f32 - 0.5
        };
        (0..n).map(|_| next()).collect()
    }

    /// Row strides beyond the row length leave gaps, which must stay as they are.
    fn check(m: usize, n: usize, k: usize, a_t: bool, b_t: bool, gap: usize, old: Old, threads: Threads) {
        let (a, b) = (values(m * k, 1), values(k * n, 2));
        let row_stride = n + gap;
        let before = values(m * row_stride, 3);
        let mut c = before.clone();
        let a_view = if a_t { Mat::new(&a, k, m).t() } else { Mat::new(&a, m, k) };
        let b_view = if b_t { Mat::strided(&b, k, n, 1, k) } else { Mat::strided(&b, k, n, n, 1) };
        gemm(0.5, a_view, b_view, MatMut::columns(&mut c, m, n, row_stride), old, threads);
        for i in 0..m {
            for j in 0..row_stride {
                let (got, was) = (c[i * row_stride + j], before[i * row_stride + j]);
                if j >= n {
                    assert_eq!(got, was, "gap ({i}, {j}) of {m}x{n}x{k}");
                    continue;
                }
                let mut want = if old == Old::Add { was as f64 } else { 0. };
                for l in 0..k {
                    let x = if a_t { a[l * m + i] } else { a[i * k + l] };
                    let y = if b_t { b[j * k + l] } else { b[l * n + j] };
                    want += 0.5 * x as f64 * y as f64;
                }
                let bound = f32::EPSILON as f64 * (k as f64 + 2.);
                assert!((got as f64 - want).abs() <= bound, "({i}, {j}) of {m}x{n}x{k}: {got}, want {want} ± {bound}");
            }
        }
    }

    #[test]
    fn equals_a_naive_product() {
        let shapes = [
            (1, 1, 1),
            (3, 5, 7),
            (16, 16, 1),
            (65, 1, 33),
            (1, 65, 33),
            (17, 31, 2),
            (130, 67, 515),
            (2, 3, 0),
            (0, 3, 2),
        ];
        for (m, n, k) in shapes {
            for case in 0..32 {
                let bit = |i: u32| case >> i & 1 == 1;
                let old = if bit(2) { Old::Add } else { Old::Overwrite };
                let threads = if bit(3) { Threads::Pool } else { Threads::One };
                check(m, n, k, bit(0), bit(1), if bit(4) { 3 } else { 0 }, old, threads);
            }
        }
    }

    #[test]
    #[should_panic(expected = "outside its slice")]
    fn refuses_a_view_outside_its_slice() {
        MatMut::columns(&mut [0.; 5], 2, 2, 4);
    }
}
