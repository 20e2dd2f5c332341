//! Every implementation of an op on the same cases: values and gradients against candle's autograd on a plain
//! expression in f64, and that against finite differences.

mod attention;
mod graph;
mod rms_norm;
mod rope;
mod swiglu;

use ferrotune::Result;
use ferrotune::candle_core::{DType, Device, Tensor, Var};

/// What an implementation computes: the outputs, and one gradient per input.
type Computed = Result<(Vec<Tensor>, Vec<Tensor>)>;

/// One case of an op, as a function of tensors.
trait Case: std::fmt::Debug {
    /// Shapes of the inputs.
    fn shapes(&self) -> Vec<Vec<usize>>;

    /// A factor on the inputs, which are uniform in [-1, 1).
    fn spread(&self) -> f64 {
        1.
    }

    /// How many roundings, at most, one element may collect, as a multiple of its size or of the root mean square.
    fn roundings(&self) -> f64;

    /// The size of the terms of a gradient where it is their difference: their rounding errors do not cancel.
    fn terms(&self) -> f64 {
        0.
    }

    /// The outputs in plain tensor operations, which candle can differentiate.
    fn reference(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>>;

    /// The op's own forward and backward; the fused form if the inputs are f32 or bf16.
    fn op(&self, inputs: &[Tensor], dys: &[Tensor]) -> Computed;

    /// The portable forward and backward.
    fn portable(&self, inputs: &[Tensor], dys: &[Tensor]) -> Computed;

    /// The outputs as nodes of candle's graph.
    fn apply(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>>;
}

/// Runs every implementation on `case`.
fn check(case: &dyn Case) -> Result<()> {
    let shapes = case.shapes();
    let inputs = shapes.iter().zip(1..).map(|(shape, seed)| (random(shape, seed)? * case.spread()).map_err(Into::into));
    let inputs = inputs.collect::<Result<Vec<_>>>()?;
    let wide = cast(&inputs, DType::F64)?;
    let outputs = case.reference(&wide)?;
    let dys = outputs.iter().zip(100..).map(|(y, seed)| random(y.dims(), seed)).collect::<Result<Vec<_>>>()?;
    let (want_y, want_dx) = differentiate(&wide, &dys, |inputs| case.reference(inputs))?;

    let compare = |name: &str, got: &(Vec<Tensor>, Vec<Tensor>), want: [&[Tensor]; 2], unit: f64| {
        for (kind, got, want) in [("output", &got.0, want[0]), ("gradient", &got.1, want[1])] {
            assert_eq!(got.len(), want.len(), "{case:?}: number of {kind}s of {name}");
            for (i, (got, want)) in got.iter().zip(want).enumerate() {
                let terms = if kind == "gradient" { case.terms() } else { 0. };
                close(&format!("{case:?}: {kind} {i} of {name}"), got, want, unit * case.roundings(), terms);
            }
        }
    };
    let want = [&want_y[..], &want_dx[..]];
    let single = f64::from(f32::EPSILON);
    compare("portable in f64", &case.portable(&wide, &cast(&dys, DType::F64)?)?, want, f64::EPSILON);
    let portable = case.portable(&inputs, &dys)?;
    compare("portable in f32", &portable, want, single);
    let fused = case.op(&inputs, &dys)?;
    compare("fused", &fused, want, single);
    compare("fused against portable", &fused, [&portable.0, &portable.1], 2. * single);

    let applied = differentiate(&inputs, &dys, |inputs| case.apply(inputs))?;
    compare("apply against fused", &applied, [&fused.0, &fused.1], 0.);

    // In bf16 the inputs themselves are rounded, so the truth is that of the rounded ones.
    let half = cast(&inputs, DType::BF16)?;
    let (half_y, half_dx) = differentiate(&cast(&half, DType::F64)?, &dys, |inputs| case.reference(inputs))?;
    let (half_dys, unit) = (cast(&dys, DType::BF16)?, 2f64.powi(-8));
    compare("portable in bf16", &case.portable(&half, &half_dys)?, [&half_y, &half_dx], unit);
    compare("fused in bf16", &case.op(&half, &half_dys)?, [&half_y, &half_dx], unit);

    finite_differences(case, &wide, &dys, &want_dx)
}

/// Moves a sample of the input elements and compares how far Σ y·dy of the portable form moves in f64.
fn finite_differences(case: &dyn Case, inputs: &[Tensor], dys: &[Tensor], want: &[Tensor]) -> Result<()> {
    const STEP: f64 = 1e-4;
    let dys = cast(dys, DType::F64)?;
    for (i, (input, want)) in inputs.iter().zip(want).enumerate() {
        let (values, want) = (f64s(input), f64s(want));
        let rms = root_mean_square(&want);
        for at in (0..values.len()).step_by(values.len().div_ceil(12)) {
            let moved = |by: f64| {
                let mut values = values.clone();
                values[at] += by;
                let mut inputs = inputs.to_vec();
                inputs[i] = Tensor::from_vec(values, input.shape(), input.device())?;
                let (outputs, _) = case.portable(&inputs, &dys)?;
                let mut total = 0.;
                for (y, dy) in outputs.iter().zip(&dys) {
                    total += (y * dy)?.sum_all()?.to_scalar::<f64>()?;
                }
                Ok::<_, ferrotune::Error>(total)
            };
            let got = (moved(STEP)? - moved(-STEP)?) / (2. * STEP);
            let bound = 1e-6 * (want[at].abs() + rms + 1.);
            let error = (got - want[at]).abs();
            assert!(error <= bound, "{case:?}: element {at} of gradient {i}: {} but moves {got} ± {bound:e}", want[at]);
        }
    }
    Ok(())
}

/// The outputs of `f` and the gradients of Σ y·dy, by candle's own backward.
fn differentiate(inputs: &[Tensor], dys: &[Tensor], f: impl Fn(&[Tensor]) -> Result<Vec<Tensor>>) -> Computed {
    let vars = inputs.iter().map(Var::from_tensor).collect::<Result<Vec<_>, _>>()?;
    let outputs = f(&vars.iter().map(|v| v.as_tensor().clone()).collect::<Vec<_>>())?;
    let mut total = Tensor::zeros((), outputs[0].dtype(), &Device::Cpu)?;
    for (y, dy) in outputs.iter().zip(dys) {
        total = (total + (y * dy.to_dtype(y.dtype())?)?.sum_all()?)?;
    }
    let gradients = total.backward()?;
    let of = |v: &Var| gradients.get(v).cloned().unwrap_or_else(|| panic!("no gradient for an input"));
    Ok((outputs.iter().map(Tensor::detach).collect(), vars.iter().map(of).collect()))
}

/// Asserts that each element is within `bound` times (its size + the root mean square + `terms`) of what it should be.
fn close(name: &str, got: &Tensor, want: &Tensor, bound: f64, terms: f64) {
    assert_eq!(got.dims(), want.dims(), "{name}: shape");
    let (got, want) = (f64s(got), f64s(want));
    let rms = root_mean_square(&want);
    let bound = |i: usize| bound * (want[i].abs() + rms + terms);
    let excess = |i: usize| (got[i] - want[i]).abs() - bound(i);
    let Some(worst) = (0..got.len()).max_by(|&i, &j| excess(i).total_cmp(&excess(j))) else { return };
    let (got, want, bound) = (got[worst], want[worst], bound(worst));
    let error = (got - want).abs();
    assert!(
        error <= bound,
        "{name}: worst at {worst}: {got} instead of {want}, error {error:e} (relative {:e}), bound {bound:e}",
        error / want.abs(),
    );
}

fn root_mean_square(values: &[f64]) -> f64 {
    (values.iter().map(|v| v * v).sum::<f64>() / values.len().max(1) as f64).sqrt()
}

fn f64s(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn cast(tensors: &[Tensor], dtype: DType) -> Result<Vec<Tensor>> {
    Ok(tensors.iter().map(|t| t.to_dtype(dtype)).collect::<Result<Vec<_>, _>>()?)
}

/// Uniform in [-1, 1), f32, a pure function of the shape and the seed.
fn random(shape: &[usize], seed: u64) -> Result<Tensor> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.
    };
    next();
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| next()).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}
