//! Every kernel that this machine has, against sums in f64.

#[cfg(target_arch = "x86_64")]
use super::amx::{Amx, Hardware};
#[cfg(target_arch = "x86_64")]
use super::avx512bf16::Avx512Bf16;
use super::lanes::Lanes;
use super::scalar::Scalar;
use super::*;
use crate::ops::cpu::decode::Lent;
use crate::ops::cpu::element::{Element, rounded};
use crate::ops::weight::QuantizedWeight;
use crate::quant::{QuantType, Quantized};
use candle_core::Device;
use half::bf16;

/// Uniform in [-0.5, 0.5].
fn values(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 - 0.5
    };
    (0..n).map(|_| next()).collect()
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Dense,
    /// With this block size, scales quantized again or not.
    Nf4(usize, bool),
}

/// A right factor W `[rows, cols]`: in 4 bits if the kind says so, and what it is worth.
struct Factors<T> {
    quantized: Option<QuantizedWeight>,
    values: Vec<T>,
}

impl<T: Factor> Factors<T> {
    fn new(kind: Kind, rows: usize, cols: usize, seed: u32) -> Self {
        let values = values(rows * cols, seed);
        let Kind::Nf4(blocksize, double) = kind else {
            return Self { quantized: None, values: rounded(&values) };
        };
        let quantized = Quantized::quantize(&values, [rows, cols], QuantType::Nf4, blocksize, double).unwrap();
        let quantized = QuantizedWeight::new(&quantized, &Device::Cpu).unwrap();
        let worth = quantized.dequantize(candle_core::DType::F32).unwrap().flatten_all().unwrap();
        Self { values: rounded(&worth.to_vec1::<f32>().unwrap()), quantized: Some(quantized) }
    }

    fn with<R>(&self, rows: usize, cols: usize, body: impl FnOnce(Source<T>) -> R) -> R {
        let lent: Option<Lent> = self.quantized.as_ref().map(|q| q.lend().unwrap());
        match lent.as_ref().map(|lent| lent.blocks()) {
            Some(blocks) => body(Source::new(Values::Blocks(&blocks), rows, cols)),
            None => body(Source::dense(&self.values, rows, cols)),
        }
    }
}

/// Two terms, of `k` and of 5 elements, against f64; both right factors transposed, or the first as it is.
fn check<K: Kernel, T: Factor + Operand<K::Number>>(kernel: K, kind: Kind, [m, n, k]: [usize; 3], transposed: bool) {
    let (stride, short) = (k + 3, 5);
    let a = rounded::<T>(&values(m * stride, 1));
    let a2 = rounded::<T>(&values(m * short, 2));
    let (rows, cols) = if transposed { (n, k) } else { (k, n) };
    let w = Factors::<T>::new(kind, rows, cols, 3);
    let w2 = Factors::<T>::new(Kind::Dense, n, short, 4);
    let before = values(m * n, 5);
    for old in [Old::Overwrite, Old::Add] {
        for threads in [Threads::One, Threads::Pool] {
            let mut got = before.clone();
            let mut got_bf16 = rounded::<bf16>(&before);
            w.with(rows, cols, |w| {
                let b = if transposed { Right::Transposed(w) } else { Right::Plain(w) };
                let second = Term::transposed(&a2, Source::dense(&w2.values, n, short));
                let terms = [Term { a: &a, stride, b }, second];
                let job = |into| Job { shape: [m, n, n], terms: &terms, masked: None, scale: 0.5, into, old, threads };
                job(Into::F32(&mut got)).run(kernel);
                job(Into::Bf16(&mut got_bf16)).run(kernel);
            });
            for i in 0..m {
                for j in 0..n {
                    let f64 = |v: T| f64::from(v.get());
                    let w = |l: usize| f64(w.values[if transposed { j * k + l } else { l * n + j }]);
                    let mut sum = (0..k).map(|l| f64(a[i * stride + l]) * w(l)).sum::<f64>();
                    sum += (0..short).map(|l| f64(a2[i * short + l]) * f64(w2.values[j * short + l])).sum::<f64>();
                    let add = |old_value: f64| 0.5 * sum + if old == Old::Add { old_value } else { 0. };
                    let case = format!("{kind:?} {m}x{n}x{k} transposed {transposed} {old:?} ({i}, {j})");
                    let (want, got) = (add(before[i * n + j] as f64), got[i * n + j] as f64);
                    let bound = f32::EPSILON as f64 * (k as f64 + 8.);
                    assert!((got - want).abs() <= bound, "{case}: {got}, want {want} ± {bound}");
                    let (want, got) = (add(bf16::of(before[i * n + j]).to_f64()), got_bf16[i * n + j].to_f64());
                    let bound = bound + want.abs() / 256.;
                    assert!((got - want).abs() <= bound, "bf16 {case}: {got}, want {want} ± {bound}");
                }
            }
        }
    }
}

/// A part of a right factor that is packed once, in place and added, against f64; what lies beside the result stays.
fn check_panels<K: Kernel>(kernel: K) {
    for (m, n, k) in [(1usize, 7usize, 5usize), (16, 40, 96), (33, 64, 70), (48, 32, 64), (5, 96, 128)] {
        let depth = k.next_multiple_of(K::DEPTH);
        // Rows of a step each are left out before the part, if there are enough.
        let first = if k > K::DEPTH { K::DEPTH } else { 0 };
        let (a, w) = (rounded::<K::Number>(&values(m * depth, 1)), rounded::<K::Number>(&values(k * n, 2)));
        let right = Right::Plain(Source::dense(&w, k, n));
        let mut room = vec![K::Number::of(f32::NAN); right.packed_len::<K>()];
        let panels = right.pack(kernel, &mut room);
        let stride = n.next_multiple_of(WIDTH) + 3;
        // What is written over may be anything.
        let (anything, numbers) = (vec![f32::INFINITY; m * stride], values(m * stride, 3));
        for (old, before) in [(Old::Overwrite, anything), (Old::Add, numbers)] {
            let mut got = before.clone();
            let rows = Rows { data: &a, stride: depth, k: depth - first };
            panels.multiply(kernel, &rows, m, first, 0..n, Out { values: &mut got, stride }, old);
            for (at, (got, before)) in got.iter().zip(&before).enumerate() {
                let (i, j) = (at / stride, at % stride);
                if j >= n {
                    assert!(j < stride - 3 || got == before, "{m}x{n}x{k} {old:?}: beside the result, ({i}, {j})");
                    continue;
                }
                let products = (first..k).map(|l| a[i * depth + l - first].get() as f64 * w[l * n + j].get() as f64);
                let want = products.sum::<f64>() + if old == Old::Add { f64::from(*before) } else { 0. };
                let bound = f32::EPSILON as f64 * (k as f64 + 8.);
                assert!((*got as f64 - want).abs() <= bound, "{m}x{n}x{k} {old:?} ({i}, {j}): {got}, want {want}");
            }
        }
    }
}

fn check_all<K: Kernel, T: Factor + Operand<K::Number>>(kernel: K) {
    check_panels(kernel);
    let kinds = [Kind::Dense, Kind::Nf4(64, true), Kind::Nf4(64, false), Kind::Nf4(128, false)];
    // One token, widths of a vocabulary of 7, lengths that are no multiple of a block or a vector.
    let shapes = [
        [1, 1, 1],
        [1, 64, 128],
        [2, 40, 96],
        [3, 33, 31],
        [4, 7, 64],
        [12, 32, 64],
        [25, 64, 128],
        [60, 96, 65],
        [130, 70, 192],
        [13, 7, 2],
        [29, 16, 96],
    ];
    for kind in kinds {
        for shape in shapes {
            for transposed in [false, true] {
                check::<K, T>(kernel, kind, shape, transposed);
            }
        }
    }
}

/// The vector registers that this machine has.
fn lanes() -> Vec<Lanes> {
    let mut archs = vec![pulp::Arch::new()];
    #[cfg(target_arch = "x86_64")]
    archs.extend(pulp::x86::V3::try_new().map(pulp::Arch::V3));
    archs.into_iter().filter_map(Lanes::new).collect()
}

#[test]
fn the_scalar_kernel_equals_sums_in_f64() {
    check_all::<_, bf16>(Scalar::<bf16, 2>::default());
    check_all::<_, f32>(Scalar::<f32, 1>::default());
    check_all::<_, bf16>(Scalar::<f32, 1>::default());
}

#[test]
fn the_kernel_of_any_vector_registers_equals_sums_in_f64() {
    for kernel in lanes() {
        check_all::<_, f32>(kernel);
        check_all::<_, bf16>(kernel);
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn the_avx512bf16_kernel_equals_sums_in_f64() {
    if let Some(kernel) = Avx512Bf16::new() {
        check_all::<_, bf16>(kernel);
    }
}

/// The processor's own tiles where there are any, and the same schedule on emulated ones.
#[test]
#[cfg(target_arch = "x86_64")]
fn the_amx_kernel_equals_sums_in_f64() {
    check_all::<_, bf16>(Amx::emulated());
    if let Some(kernel) = Amx::<Hardware>::new() {
        check_all::<_, bf16>(kernel);
    }
}

#[test]
fn parts_of_larger_matrices_are_read_and_written_where_they_lie() {
    let (m, n, k, wide) = (15, 37, 34, 50);
    let (a, w) = (rounded::<bf16>(&values(m * wide, 1)), rounded::<bf16>(&values(k * wide, 2)));
    let before = values(m * wide, 3);
    let mut got = before.clone();
    let b = Right::Plain(Source::strided(Values::Dense(&w[3..]), k, n, wide));
    let term = Term { a: &a[5..], stride: wide, b };
    product_strided([m, n, wide], 1., &[term], Into::F32(&mut got[7..]), Old::Overwrite, Threads::Pool);
    for (i, (got, before)) in got.iter().zip(before).enumerate() {
        let (row, column) = (i.wrapping_sub(7) / wide, i.wrapping_sub(7) % wide);
        if i < 7 || row >= m || column >= n {
            assert_eq!(*got, before, "outside, at {i}");
            continue;
        }
        let want: f64 = (0..k).map(|l| a[5 + row * wide + l].to_f64() * w[3 + l * wide + column].to_f64()).sum();
        assert!((*got as f64 - want).abs() < 1e-5, "({row}, {column}): {got}, want {want}");
    }
}

/// Panels are exact copies, so every kernel must pack the same bits.
#[test]
#[cfg(target_arch = "x86_64")]
fn panels_have_the_same_bits_in_every_kernel() {
    type Reference = Scalar<bf16, 2>;
    let Some(kernel) = Avx512Bf16::new() else { return };
    let len = panel_len::<Reference>;
    for kind in [Kind::Dense, Kind::Nf4(64, true), Kind::Nf4(128, false)] {
        let (rows, cols) = (96, 128);
        Factors::<bf16>::new(kind, rows, cols, 9).with(rows, cols, |w| {
            for at in [0, 32, 64] {
                let (mut ours, mut want) = (vec![bf16::ONE; len(cols)], vec![bf16::ZERO; len(cols)]);
                w.pack_rows(kernel, at, &mut ours);
                w.pack_rows(Reference::default(), at, &mut want);
                assert_eq!(ours, want, "rows from {at}, {kind:?}");
                let (mut ours, mut want) = (vec![bf16::ONE; len(rows)], vec![bf16::ZERO; len(rows)]);
                w.pack_columns(kernel, at, &mut ours);
                w.pack_columns(Reference::default(), at, &mut want);
                assert_eq!(ours, want, "columns from {at}, {kind:?}");
            }
        });
    }
    for (rows, cols) in [(33, 16), (32, 1), (41, 47), (65, 96), (1, 33)] {
        Factors::<bf16>::new(Kind::Dense, rows, cols, 9).with(rows, cols, |w| {
            for at in (0..cols).step_by(32) {
                let (mut ours, mut want) = (vec![bf16::ONE; len(rows)], vec![bf16::ZERO; len(rows)]);
                w.pack_columns(kernel, at, &mut ours);
                w.pack_columns(Reference::default(), at, &mut want);
                assert_eq!(ours, want, "columns from {at} of {rows} x {cols}");
            }
            let (mut ours, mut want) = (vec![bf16::ONE; len(cols)], vec![bf16::ZERO; len(cols)]);
            w.pack_rows(kernel, 0, &mut ours);
            w.pack_rows(Reference::default(), 0, &mut want);
            assert_eq!(ours, want, "rows of {rows} x {cols}");
        });
    }
}

#[test]
#[should_panic(expected = "rows outside their matrix")]
#[cfg(target_arch = "x86_64")]
fn a_left_factor_that_is_too_short_is_refused() {
    let Some(kernel) = Avx512Bf16::new() else { panic!("rows outside their matrix (not tried)") };
    let rows = Rows { data: &[bf16::ONE; 7], stride: 4, k: 4 };
    let out = Out { values: &mut [0.; 12 * WIDTH], stride: WIDTH };
    kernel.tile([2, 32], &[rows], &[bf16::ONE; 128], out, Old::Overwrite);
}
