//! Exponentials that the compiler can vectorise.
//!
//! exp(x) = 2ⁿ·exp(r), n = round(x / ln 2), |r| ≤ ln 2 / 2; exp(r) is a polynomial of degree 7. No branch, no table and no
//! call, so a loop over it becomes one over whole SIMD registers. Coefficients: Cephes, `expf`.

/// eˣ for any `x`, within 2 units in the last place of the exact value; ∞ above 88.73, 0 below -103.98, NaN for NaN.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let Parts { p, n } = parts(x, -104.0, 89.0);
    // 2ⁿ in two factors, because n reaches from -150 to 128 and a float's exponent only from -126 to 127.
    let half = n >> 1;
    p * power(half) * power(n.wrapping_sub(half))
}

/// eˣ for `x` from -87 to 88, as exact as [`exp`] and in fewer steps; for any other `x` what it is at the nearer end, and NaN
/// for NaN.
#[inline(always)]
pub(crate) fn exp_in_range(x: f32) -> f32 {
    let Parts { p, n } = parts(x, -87.0, 88.0);
    p * power(n)
}

/// exp(r) and n.
struct Parts {
    p: f32,
    n: i32,
}

#[inline(always)]
fn parts(x: f32, low: f32, high: f32) -> Parts {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    // ln 2 in two parts; n times the first is exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // Adding 1.5·2²³ leaves the rounded integer in the low bits.
    const ROUND: f32 = 12_582_912.0;

    // Comparisons, not `clamp`, because they let NaN through at no cost.
    let x = if x < low { low } else { x };
    let x = if x > high { high } else { x };

    let shifted = x.mul_add(LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN_2_HIGH, x);
    let r = n.mul_add(-LN_2_LOW, r);

    let p = 1.987_569_1e-4_f32;
    let p = p.mul_add(r, 1.398_199_9e-3);
    let p = p.mul_add(r, 8.333_452e-3);
    let p = p.mul_add(r, 4.166_579_6e-2);
    let p = p.mul_add(r, 1.666_666_5e-1);
    let p = p.mul_add(r, 0.5);
    let p = (p * r).mul_add(r, r) + 1.0;
    Parts { p, n: (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32) }
}

/// 2ⁿ for n from -126 to 127.
#[inline(always)]
fn power(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) << 23) as u32)
}

/// The logistic function 1 / (1 + e⁻ˣ).
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn within_two_units_in_the_last_place() {
        let mut worst = (0f64, 0f32);
        for i in 0..4_000_000 {
            let x = -87.3 + 176.0 * (i as f32 / 4_000_000.0);
            let exact = f64::from(x).exp();
            if exact > f64::from(f32::MAX) {
                continue;
            }
            let rounded = exact as f32;
            let unit = f64::from(f32::from_bits(rounded.to_bits() + 1)) - f64::from(rounded);
            assert!(exp_in_range(x) == exp(x) || !(-87. ..=88.).contains(&x), "{x}");
            let error = (f64::from(exp(x)) - exact).abs() / unit;
            if error > worst.0 {
                worst = (error, x);
            }
        }
        assert!(worst.0 < 2.0, "exp({}) is off by {} units in the last place", worst.1, worst.0);
    }

    #[test]
    fn ends_of_the_range() {
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-1e30), 0.0);
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(89.0), f32::INFINITY);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
        let subnormal = exp(-100.0);
        assert!((subnormal - (-100f32).exp()).abs() <= 2.0 * f32::from_bits(1), "{subnormal:e}");
        assert_eq!(sigmoid(0.0), 0.5);
        assert_eq!(sigmoid(-200.0), 0.0);
        assert!(sigmoid(f32::NAN).is_nan());
        assert_eq!(exp_in_range(f32::NEG_INFINITY), exp(-87.0));
        assert_eq!(exp_in_range(f32::INFINITY), exp(88.0));
        assert!(exp_in_range(f32::NAN).is_nan());
        assert_eq!(sigmoid(200.0), 1.0);
    }
}
