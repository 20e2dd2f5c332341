//! `qlora_linear`.

use super::{close, differences, f64s, random, values};
use ferrotune::Result;
use ferrotune::candle_core::{DType, Device, Tensor, Var};
use ferrotune::ops::qlora_linear::{self, Dropout, Grads, LoraBranch, Needs, Saved};
use ferrotune::ops::weight::{QuantizedWeight, Weight};
use ferrotune::quant::{Absmax, QuantType, Quantized};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Dense,
    /// With this block size.
    Plain(usize),
    Nested(usize),
}

#[derive(Clone, Copy, Debug)]
struct Case {
    t: usize,
    input: usize,
    out: usize,
    rank: usize,
    dropout: f32,
    bias: bool,
    kind: Kind,
}

/// T, in, out, rank (0: no branch), dropout, bias, weight.
const CASES: &[(usize, usize, usize, usize, f32, bool, Kind)] = &[
    (1, 4, 2, 0, 0., false, Kind::Dense),
    (1, 7, 5, 1, 0.3, true, Kind::Dense),
    (3, 64, 33, 16, 0., true, Kind::Nested(64)),
    (6, 65, 3, 1, 0.3, false, Kind::Plain(64)),
    (5, 192, 40, 4, 0., true, Kind::Nested(64)),
    (9, 7, 5, 1, 0.3, true, Kind::Plain(64)),
    (33, 130, 67, 16, 0.3, false, Kind::Nested(64)),
    (130, 63, 70, 16, 0., true, Kind::Plain(32)),
    (200, 128, 96, 16, 0.3, true, Kind::Dense),
    (257, 96, 128, 8, 0.05, false, Kind::Nested(32)),
    (70, 9, 11, 3, 0.3, false, Kind::Plain(4)),
    (12, 1500, 800, 4, 0.3, false, Kind::Nested(64)),
];

fn cases() -> impl Iterator<Item = Case> {
    CASES.iter().map(|&(t, input, out, rank, dropout, bias, kind)| Case { t, input, out, rank, dropout, bias, kind })
}

/// The inputs of a case, in f32.
struct Inputs {
    x: Tensor,
    w: Weight,
    bias: Option<Tensor>,
    a: Tensor,
    b: Tensor,
    dy: Tensor,
    lora: Option<(f64, Option<Dropout>)>,
}

impl Case {
    fn weight(&self) -> Weight {
        let Self { out, input, kind, .. } = *self;
        let blocksize = match kind {
            Kind::Dense => return Weight::Dense(random(out, input, 2)),
            Kind::Plain(blocksize) | Kind::Nested(blocksize) => blocksize,
        };
        let bytes = |n: usize, seed| values(n, seed).iter().map(|v| ((v + 0.5) * 256.) as u8).collect::<Vec<_>>();
        let blocks = (out * input).div_ceil(blocksize);
        let absmax = match kind {
            Kind::Nested(_) => {
                let code = values(256, 3);
                let absmax = values(blocks.div_ceil(16), 4).iter().map(|v| v.abs()).collect();
                Absmax::Nested { codes: bytes(blocks, 5), code, absmax, blocksize: 16, offset: 0.75 }
            }
            _ => Absmax::Plain(values(blocks, 6).iter().map(|v| v + 1.).collect()),
        };
        let quantized = Quantized {
            quant_type: QuantType::Nf4,
            shape: [out, input],
            blocksize,
            packed: bytes((out * input).div_ceil(2), 7),
            code: std::array::from_fn(|i| values(16, 8)[i]),
            absmax,
            dtype: "float32".into(),
        };
        QuantizedWeight::new(&quantized, &Device::Cpu).unwrap().into()
    }

    fn inputs(&self) -> Inputs {
        let Self { t, input, out, rank, dropout, bias, .. } = *self;
        Inputs {
            x: random(t, input, 1),
            w: self.weight(),
            bias: bias.then(|| random(1, out, 9).flatten_all().unwrap()),
            a: random(rank.max(1), input, 10),
            b: random(out, rank.max(1), 11),
            dy: random(t, out, 12),
            lora: (rank > 0).then_some((1.7, Some(Dropout { p: dropout, seed: 99 }))),
        }
    }
}

impl Inputs {
    fn branch(&self) -> Option<LoraBranch<'_>> {
        self.lora.map(|(scale, dropout)| LoraBranch { a: &self.a, b: &self.b, scale, dropout })
    }

    fn to(&self, dtype: DType) -> Self {
        let to = |t: &Tensor| t.to_dtype(dtype).unwrap();
        Self {
            x: to(&self.x),
            w: match &self.w {
                Weight::Dense(w) => Weight::Dense(to(w)),
                Weight::Quantized(w) => Weight::Quantized(w.clone()),
            },
            bias: self.bias.as_ref().map(to),
            a: to(&self.a),
            b: to(&self.b),
            dy: to(&self.dy),
            lora: self.lora,
        }
    }

    /// Activations and a dense weight in bf16, A and B in f32, no bias.
    fn in_bf16(&self) -> Self {
        let Self { x, w, dy, .. } = self.to(DType::BF16);
        Self { x, w, dy, bias: None, a: self.a.clone(), b: self.b.clone(), lora: self.lora }
    }

    fn needs(&self) -> Needs {
        Needs { dx: true, dw: matches!(self.w, Weight::Dense(_)) }
    }

    fn run(&self) -> (Tensor, Saved, Grads) {
        let branch = self.branch();
        let (y, saved) = qlora_linear::forward(&self.x, &self.w, self.bias.as_ref(), branch.as_ref()).unwrap();
        let grads = qlora_linear::backward(&self.x, &self.w, branch.as_ref(), &saved, &self.dy, self.needs()).unwrap();
        (y, saved, grads)
    }

    fn run_portable(&self) -> (Tensor, Grads) {
        use qlora_linear::portable::{backward, forward};
        let branch = self.branch();
        let (y, saved) = forward(&self.x, &self.w, self.bias.as_ref(), branch.as_ref()).unwrap();
        (y, backward(&self.x, &self.w, branch.as_ref(), &saved, &self.dy, self.needs()).unwrap())
    }

    /// The same as one candle expression, differentiated by candle.
    fn run_autograd(&self) -> Result<(Tensor, Grads)> {
        let var = Var::from_tensor;
        let (x, a, b, w) = (var(&self.x)?, var(&self.a)?, var(&self.b)?, var(&self.w.dequantize(self.x.dtype())?)?);
        let mut y = x.matmul(&w.t()?)?;
        if let Some(bias) = &self.bias {
            y = y.broadcast_add(bias)?;
        }
        if let Some((scale, dropout)) = self.lora {
            let dropout = dropout.unwrap();
            let mask = (dropout.mask(x.shape(), x.dtype(), x.device())? / (1. - dropout.p as f64))?;
            y = (y + (x.mul(&mask)?.matmul(&a.t()?)?.matmul(&b.t()?)? * scale)?)?;
        }
        let store = y.mul(&self.dy)?.sum_all()?.backward()?;
        let get = |v: &Var| store.get(v).cloned();
        let dw = if self.needs().dw { get(&w) } else { None };
        Ok((y, Grads { dx: get(&x), da: get(&a), db: get(&b), dw }))
    }
}

fn compare(name: &str, case: Case, got: &(Tensor, Grads), want: &(Tensor, Grads), unit: f64) {
    let Case { t, input, out, rank, .. } = case;
    close(&format!("{name} y, {case:?}"), &got.0, &want.0, unit, input + rank);
    let pairs = [
        ("dx", &got.1.dx, &want.1.dx, out + rank),
        ("da", &got.1.da, &want.1.da, out + t),
        ("db", &got.1.db, &want.1.db, input + t),
        ("dw", &got.1.dw, &want.1.dw, t),
    ];
    for (what, got, want, length) in pairs {
        match (got, want) {
            (Some(got), Some(want)) => close(&format!("{name} {what}, {case:?}"), got, want, unit, length),
            (None, None) => {}
            _ => panic!("{name} {what}, {case:?}: {} instead of {}", got.is_some(), want.is_some()),
        }
    }
}

#[test]
fn equals_autograd_in_every_form() {
    for case in cases() {
        let inputs = case.inputs();
        let want = inputs.to(DType::F64).run_autograd().unwrap();
        let (y, _, grads) = inputs.run();
        compare("fused f32", case, &(y, grads), &want, f32::EPSILON as f64);
        compare("portable f32", case, &inputs.run_portable(), &want, f32::EPSILON as f64);
        compare("portable f64", case, &inputs.to(DType::F64).run_portable(), &want, 4. * f64::EPSILON);
    }
}

/// In bf16 the inputs are rounded already; W, h and the gradients in between are rounded once more.
#[test]
fn in_bf16_equals_autograd_of_the_rounded_inputs() {
    for case in cases() {
        let inputs = case.inputs().in_bf16();
        let mut want = inputs.to(DType::F64).run_autograd().unwrap();
        want.1.dw = None;
        let branch = inputs.branch();
        let (y, saved) = qlora_linear::forward(&inputs.x, &inputs.w, None, branch.as_ref()).unwrap();
        let needs = Needs { dx: true, dw: false };
        let grads = qlora_linear::backward(&inputs.x, &inputs.w, branch.as_ref(), &saved, &inputs.dy, needs).unwrap();
        for (what, got, want) in [
            ("y", Some(&y), Some(&want.0)),
            ("dx", grads.dx.as_ref(), want.1.dx.as_ref()),
            ("da", grads.da.as_ref(), want.1.da.as_ref().filter(|_| case.rank > 0)),
            ("db", grads.db.as_ref(), want.1.db.as_ref().filter(|_| case.rank > 0)),
        ] {
            assert_eq!(got.is_some(), want.is_some(), "{what}, {case:?}");
            if let (Some(got), Some(want)) = (got, want) {
                close(&format!("bf16 {what}, {case:?}"), got, want, 2f64.powi(-6), 1);
            }
        }
    }
}

#[test]
fn equals_finite_differences() {
    for case in cases().filter(|c| c.t * c.input * c.out < 2000) {
        let inputs = case.inputs().to(DType::F64);
        let (_, grads) = inputs.run_portable();
        let loss = |inputs: &Inputs| {
            let y = inputs.run_portable().0;
            f64s(&y.mul(&inputs.dy).unwrap().sum_all().unwrap())[0]
        };
        type Slot = fn(&mut Inputs) -> &mut Tensor;
        let dense: Slot = |i| match &mut i.w {
            Weight::Dense(w) => w,
            Weight::Quantized(_) => unreachable!("no gradient"),
        };
        let slots: [(&str, Option<&Tensor>, Slot); 4] = [
            ("dx", grads.dx.as_ref(), |i| &mut i.x),
            ("da", grads.da.as_ref(), |i| &mut i.a),
            ("db", grads.db.as_ref(), |i| &mut i.b),
            ("dw", grads.dw.as_ref(), dense),
        ];
        for (name, grad, slot) in slots {
            let Some(grad) = grad else { continue };
            let mut moved = inputs.to(DType::F64);
            let want = differences(slot(&mut moved).clone(), |t| {
                *slot(&mut moved) = t;
                loss(&moved)
            });
            // The loss is quadratic in A and B and linear in the others, so only rounding is left, over the step.
            close(&format!("{name}, {case:?}"), grad, &want, 1e-9, 1);
        }
    }
}

#[test]
fn gives_the_same_bits_again() {
    for case in cases() {
        let inputs = case.inputs();
        let bits = |(y, _, g): (Tensor, Saved, Grads)| {
            let all = [Some(y), g.dx, g.da, g.db].into_iter().flatten();
            all.map(|t| f64s(&t)).collect::<Vec<_>>()
        };
        assert!(bits(inputs.run()) == bits(inputs.run()), "{case:?}");
    }
}

#[test]
fn in_candles_graph_has_its_gradients() -> Result<()> {
    for case in cases() {
        let inputs = case.inputs();
        let (x, a, b) = (Var::from_tensor(&inputs.x)?, Var::from_tensor(&inputs.a)?, Var::from_tensor(&inputs.b)?);
        let branch = inputs.lora.map(|(scale, dropout)| LoraBranch { a: &a, b: &b, scale, dropout });
        let y = qlora_linear::apply(&x, &inputs.w, inputs.bias.as_ref(), branch.as_ref())?;
        let store = y.mul(&inputs.dy)?.sum_all()?.backward()?;
        let get = |v: &Var| store.get(v).cloned();
        let (y_want, _, mut want) = inputs.run();
        want.dw = None;
        let got = Grads { dx: get(&x), da: get(&a), db: get(&b), dw: None };
        compare("graph", case, &(y, got), &(y_want, want), 0.);
    }
    Ok(())
}

#[test]
fn decoding_equals_the_portable_form_bit_for_bit() -> Result<()> {
    for case in cases() {
        let Weight::Quantized(w) = case.weight() else { continue };
        let got = w.dequantize(DType::F32)?;
        close(&format!("{case:?}"), &got, &w.dequantize_portable(DType::F32)?, 0., 0);
    }
    Ok(())
}

#[test]
fn shapes_that_do_not_fit_are_errors() -> Result<()> {
    let (x, w) = (random(3, 4, 1), Weight::Dense(random(2, 4, 2)));
    let run = |x: &Tensor, a: &Tensor, b: &Tensor, p: f32| {
        let lora = LoraBranch { a, b, scale: 1., dropout: Some(Dropout { p, seed: 0 }) };
        qlora_linear::forward(x, &w, None, Some(&lora)).map(|_| ())
    };
    let (a, b) = (random(1, 4, 3), random(2, 1, 4));
    run(&x, &a, &b, 0.)?;
    assert!(run(&x.t()?, &a, &b, 0.).is_err());
    assert!(run(&x, &b, &b, 0.).is_err());
    assert!(run(&x, &a, &a, 0.).is_err());
    assert!(run(&x, &a, &b, 1.).is_err());
    assert!(qlora_linear::forward(&x, &w, Some(&x), None).is_err());
    let mut quantized = Quantized::quantize(&values(64, 1), [2, 32], QuantType::Nf4, 32, false)?;
    quantized.blocksize = 3;
    assert!(QuantizedWeight::new(&quantized, &Device::Cpu).is_err());
    let (_, saved) = qlora_linear::forward(&x, &w, None, None)?;
    let needs = Needs { dx: true, dw: false };
    assert!(qlora_linear::backward(&x, &w, None, &saved, &x, needs).is_err());
    Ok(())
}
