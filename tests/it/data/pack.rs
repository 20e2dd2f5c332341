//! Packing: nothing lost, nothing too long, no room wasted that first-fit would use.

use ferrotune::data::pack;
use proptest::prelude::*;

#[test]
fn the_fullest_row_that_fits_takes_the_example() {
    assert_eq!(pack(&[], 8), Vec::<Vec<usize>>::new());
    assert_eq!(pack(&[5, 7, 2, 1], 8), [vec![1, 3], vec![0, 2]]);
    assert_eq!(pack(&[4, 4, 4, 4], 8), [[0, 1], [2, 3]]);
    assert_eq!(pack(&[9, 1], 8), [[0], [1]]);
}

/// First-fit decreasing, the plain way.
fn first_fit(lengths: &[usize], max_length: usize) -> usize {
    let mut sorted = lengths.to_vec();
    sorted.sort_unstable_by(|a, b| b.cmp(a));
    let mut rows: Vec<usize> = Vec::new();
    for length in sorted {
        match rows.iter_mut().find(|used| **used + length <= max_length) {
            Some(used) => *used += length,
            None => rows.push(length),
        }
    }
    rows.len()
}

proptest! {
    #[test]
    fn rows_hold_every_example_once(max_length in 1usize..200, seeds in prop::collection::vec(any::<usize>(), 0..300)) {
        let lengths: Vec<usize> = seeds.iter().map(|s| 1 + s % max_length).collect();
        let rows = pack(&lengths, max_length);
        let mut seen: Vec<usize> = rows.iter().flatten().copied().collect();
        seen.sort_unstable();
        prop_assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
        let used: Vec<usize> = rows.iter().map(|row| row.iter().map(|i| lengths[*i]).sum()).collect();
        prop_assert!(used.iter().all(|used| *used <= max_length));
        // Both rules stay within 11/9 of the optimum plus 6/9 of a row (Dosa, 2007; Johnson, 1973, for best fit).
        let least = lengths.iter().sum::<usize>().div_ceil(max_length);
        prop_assert!(rows.len() >= least);
        prop_assert!(rows.len() * 9 <= first_fit(&lengths, max_length) * 11 + 6);
        // No two rows fit into one.
        let mut emptiest = used.clone();
        emptiest.sort_unstable();
        prop_assert!(emptiest.len() < 2 || emptiest[0] + emptiest[1] > max_length);
        prop_assert_eq!(rows, pack(&lengths, max_length));
    }
}
