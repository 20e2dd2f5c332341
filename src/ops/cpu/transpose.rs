//! Transposed copies.

use crate::ops::cpu::element::Element;
use crate::ops::cpu::unspecified;
use rayon::prelude::*;

/// Rows of the result that a task writes: as many numbers of a row of the original lie together.
const ROWS: usize = 16;

/// The transpose `[cols, rows]` of `values` `[rows, cols]`, rounded to U.
pub(crate) fn of<T: Element, U: Element>(values: &[T], rows: usize, cols: usize) -> Vec<U> {
    let mut out = unspecified::numbers::<U>(rows * cols);
    if rows * cols == 0 {
        return out;
    }
    out.par_chunks_mut(ROWS * rows).enumerate().for_each(|(i, out)| {
        let first = i * ROWS;
        let count = out.len() / rows;
        for (row, values) in values.chunks_exact(cols).enumerate() {
            let column = out[row..].iter_mut().step_by(rows);
            column.zip(&values[first..first + count]).for_each(|(out, v)| *out = U::of(v.get()));
        }
    });
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_become_rows() {
        for (rows, cols) in [(1, 1), (3, 40), (40, 3), (17, 16), (0, 4)] {
            let values = (0..rows * cols).map(|v| v as f32).collect::<Vec<_>>();
            let out = super::of::<f32, f32>(&values, rows, cols);
            assert_eq!(out.len(), values.len());
            assert!((0..rows * cols).all(|i| out[i] == values[i % rows * cols + i / rows]), "{rows} x {cols}");
        }
    }
}
