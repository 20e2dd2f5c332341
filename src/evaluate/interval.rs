//! How sure a rate is, and whether two models differ on the same examples.

/// Between minus this and this lie 95 % of a normal distribution: its quantile at 0.975.
const Z: f64 = 1.959_963_984_540_054;

/// The 95 % interval of a rate of which a sample is known: `hits` of `n`.
///
/// Both ends are shares from 0 to 1. Of intervals that are computed so from many samples, some 95 of 100 contain the rate of
/// all examples, also where it is near 0 or 1 and where `n` is small. Without examples nothing is known: (0, 1).
///
/// Source: Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
///
/// ```
/// let (low, high) = ferrotune::evaluate::wilson(0, 20);
/// assert!(low == 0.0 && (high - 0.161).abs() < 1e-3);
/// ```
pub fn wilson(hits: usize, n: usize) -> (f64, f64) {
    if n == 0 {
        return (0.0, 1.0);
    }
    let (hits, all) = (hits.min(n), n as f64);
    let rate = hits as f64 / all;
    let scale = 1.0 + Z * Z / all;
    let middle = (rate + Z * Z / (2.0 * all)) / scale;
    let half = Z / scale * (rate * (1.0 - rate) / all + Z * Z / (4.0 * all * all)).sqrt();
    // At these two ends the formula gives 0 and 1, but for rounding.
    let low = if hits == 0 { 0.0 } else { middle - half };
    let high = if hits == n { 1.0 } else { middle + half };
    (low, high)
}

/// How likely two equally good models are to differ on the same examples at least as one-sidedly as they did: the exact
/// two-sided sign test, which is McNemar's test without an approximation.
///
/// - `only_first`, `only_second`: examples that only the one model, or only the other, got right. What both got right, or
///   both wrong, says nothing about the difference.
/// - returns the p-value, from 0 to 1; 1 where there are no such examples
///
/// Sources: McNemar, "Note on the sampling error of the difference between correlated proportions or percentages", 1947;
/// Dixon and Mood, "The statistical sign test", 1946.
///
/// ```
/// assert_eq!(ferrotune::evaluate::sign_test(5, 5), 1.0);
/// assert!(ferrotune::evaluate::sign_test(0, 6) < 0.05);
/// ```
pub fn sign_test(only_first: usize, only_second: usize) -> f64 {
    let n = only_first + only_second;
    // The logarithm of one outcome's probability, C(n, i) / 2^n: for some thousand pairs, 2^n itself is not a number.
    let mut ln_term = -(n as f64) * std::f64::consts::LN_2;
    let mut tail = 0.0;
    for i in 0..=only_first.min(only_second) {
        tail += ln_term.exp();
        ln_term += ((n - i) as f64 / (i + 1) as f64).ln();
    }
    f64::min(1.0, 2.0 * tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_wilsons() {
        let cases = [
            (0, 20, 0.0, 0.161_125_158_052_818_8),
            (20, 20, 0.838_874_841_947_181_1, 1.0),
            (9, 20, 0.258_197_858_255_624_5, 0.657_914_657_549_671_7),
            (1, 1, 0.206_549_314_377_237_45, 1.0),
            (108, 240, 0.388_339_992_672_459_06, 0.513_235_399_321_696_9),
        ];
        for (hits, n, low, high) in cases {
            let (l, h) = wilson(hits, n);
            assert!((l - low).abs() < 1e-12 && (h - high).abs() < 1e-12, "{hits} of {n}: {l} to {h}");
        }
        assert_eq!(wilson(0, 0), (0.0, 1.0));
    }

    #[test]
    fn four_times_the_examples_halve_an_interval() {
        let width = |n: usize| {
            let (low, high) = wilson(n / 2, n);
            high - low
        };
        assert!((width(400) / width(1600) - 2.0).abs() < 0.02);
        assert!(width(20) > 0.4 && width(240) < 0.13);
    }

    #[test]
    fn the_sign_test_is_exact() {
        let cases = [
            (0, 0, 1.0),
            (0, 1, 1.0),
            (0, 5, 0.0625),
            (0, 6, 0.03125),
            (1, 9, 0.021_484_375),
            (8, 2, 0.109_375),
            (2, 14, 0.004_180_908_203_125),
            (50, 50, 1.0),
            (1500, 1400, 0.065_987_349_665_183_81),
            (1450, 1550, 0.070_669_044_811_757_74),
            (1000, 2000, 1.009_014_862_794_134_1e-75),
        ];
        for (first, second, p) in cases {
            for got in [sign_test(first, second), sign_test(second, first)] {
                assert!((got - p).abs() <= 1e-9 * p, "{first} and {second}: {got}");
            }
        }
        // Below what a number can hold.
        assert_eq!(sign_test(0, 3000), 0.0);
    }
}
