//! Packing: short examples share a row, so that few rows carry all tokens.

use std::collections::BTreeSet;

/// Puts examples of `lengths` into rows of at most `max_length` tokens; returns each row's example indices.
///
/// Best-fit decreasing over the whole set: the longest example first, each into the fullest row that still holds it. Every
/// index is in exactly one row. An example that is longer than `max_length` gets a row to itself; tokenizing leaves none.
/// Ties go to the lower index and the older row, so the result depends on `lengths` alone. O(n log n).
///
/// ```
/// assert_eq!(ferrotune::data::pack(&[3, 6, 4, 2], 8), [vec![1, 3], vec![2, 0]]);
/// ```
pub fn pack(lengths: &[usize], max_length: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(lengths[i]));
    let mut rows: Vec<Vec<usize>> = Vec::new();
    // (room left, row)
    let mut open: BTreeSet<(usize, usize)> = BTreeSet::new();
    for i in order {
        let fullest = open.range((lengths[i], 0)..).next().copied();
        let (room, row) = fullest.unwrap_or((max_length, rows.len()));
        if fullest.is_some() {
            open.remove(&(room, row));
            rows[row].push(i);
        } else {
            rows.push(vec![i]);
        }
        let left = room.saturating_sub(lengths[i]);
        if left > 0 {
            open.insert((left, row));
        }
    }
    rows
}
