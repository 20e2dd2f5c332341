//! `qlora_linear` and `linear_cross_entropy`: every form against candle's autograd in f64, and the portable form in f64
//! against finite differences.

mod dora;
mod linear;
mod loss;

use ferrotune::candle_core::{DType, Device, Tensor};

/// Uniform in [-0.5, 0.5).
fn values(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..n).map(|_| next()).collect()
}

fn random(rows: usize, cols: usize, seed: u64) -> Tensor {
    Tensor::from_vec(values(rows * cols, seed), (rows, cols), &Device::Cpu).unwrap()
}

fn f64s(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Each element within `unit * length * (|want| + rms(want))`, `length` being how many terms its sum has.
fn close(name: &str, got: &Tensor, want: &Tensor, unit: f64, length: usize) {
    assert_eq!(got.dims(), want.dims(), "{name}: shape");
    let (got, want) = (f64s(got), f64s(want));
    let rms = (want.iter().map(|w| w * w).sum::<f64>() / want.len() as f64).sqrt();
    let bound = |i: usize| unit * length as f64 * (want[i].abs() + rms) + f64::MIN_POSITIVE;
    let excess = |i: usize| (got[i] - want[i]).abs() / bound(i);
    if let Some(i) = (0..got.len()).max_by(|&i, &j| excess(i).total_cmp(&excess(j))) {
        let error = (got[i] - want[i]).abs();
        assert!(
            error <= bound(i),
            "{name}: worst at {i}: {} instead of {}, error {error:e} (relative {:e}), bound {:e}",
            got[i],
            want[i],
            error / want[i].abs(),
            bound(i),
        );
    }
}

/// Central differences of `f` by each element of `at`.
fn differences(at: Tensor, mut f: impl FnMut(Tensor) -> f64) -> Tensor {
    const STEP: f64 = 1e-4;
    let values = f64s(&at);
    let mut moved = |i: usize, by: f64| {
        let mut values = values.clone();
        values[i] += by;
        f(Tensor::from_vec(values, at.shape(), at.device()).unwrap())
    };
    let d = (0..values.len()).map(|i| (moved(i, STEP) - moved(i, -STEP)) / (2. * STEP)).collect::<Vec<_>>();
    Tensor::from_vec(d, at.shape(), at.device()).unwrap()
}
