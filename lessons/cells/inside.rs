//! Cells of the lesson `inside`: six operations, and their derivatives checked.

use crate::prelude::*;

pub(crate) fn lesson() -> crate::Outcome {
    // ANCHOR: numbers
    use candle_core::{D, DType, Device, Tensor, Var};

    /// Numbers from -1 to 1 that look random and are the same on every machine.
    fn numbers(rows: usize, columns: usize, seed: f64) -> candle_core::Result<Tensor> {
        let count = Tensor::arange(0f64, (rows * columns) as f64, &Device::Cpu)?;
        count.sqr()?.affine(0.37, seed)?.sin()?.reshape((rows, columns))
    }
    /// One number out of many: their sum, each with a weight of its own.
    fn total(y: &Tensor) -> candle_core::Result<Tensor> {
        let y = y.flatten_all()?;
        let weights = numbers(1, y.elem_count(), 0.5)?.flatten_all()?.to_dtype(y.dtype())?;
        y.mul(&weights)?.sum_all()
    }
    // ANCHOR_END: numbers

    // ANCHOR: gradients
    /// What is checked: tensors in, one tensor out.
    type Op = fn(&[Tensor]) -> ferrotune::Result<Tensor>;

    /// The gradients of the total by candle's backward, one for each input.
    fn gradients(op: Op, inputs: &[Tensor], dtype: DType) -> ferrotune::Result<Vec<Tensor>> {
        let mut vars = Vec::new();
        for input in inputs {
            vars.push(Var::from_tensor(&input.to_dtype(dtype)?)?);
        }
        let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
        let store = total(&op(&tensors)?)?.backward()?;
        Ok(vars.iter().filter_map(|var| store.get(var).cloned()).collect())
    }
    // ANCHOR_END: gradients

    // ANCHOR: moved
    /// The total after one number of one input was moved.
    fn moved(op: Op, inputs: &[Tensor], place: [usize; 2], by: f64) -> ferrotune::Result<f64> {
        let mut inputs = inputs.to_vec();
        let input = inputs[place[0]].clone();
        let mut values = input.flatten_all()?.to_vec1::<f64>()?;
        values[place[1]] += by;
        inputs[place[0]] = Tensor::from_vec(values, input.shape(), &Device::Cpu)?;
        Ok(total(&op(&inputs)?)?.to_scalar::<f64>()?)
    }
    // ANCHOR_END: moved

    // ANCHOR: differences
    /// The gradients by moving each number up and down by h.
    fn differences(op: Op, inputs: &[Tensor], h: f64) -> ferrotune::Result<Vec<Tensor>> {
        let mut found = Vec::new();
        for (i, input) in inputs.iter().enumerate() {
            let mut slopes = Vec::new();
            for at in 0..input.elem_count() {
                let up = moved(op, inputs, [i, at], h)?;
                let down = moved(op, inputs, [i, at], -h)?;
                slopes.push((up - down) / (2.0 * h));
            }
            found.push(Tensor::from_vec(slopes, input.shape(), &Device::Cpu)?);
        }
        Ok(found)
    }
    // ANCHOR_END: differences

    // ANCHOR: step
    use ferrotune::ops::swiglu;

    /// The error of SwiGLU's derivative by differences, over 64 places.
    fn error(dtype: DType, h: f64) -> ferrotune::Result<f64> {
        let x = Tensor::arange(-32f64, 32.0, &Device::Cpu)?.affine(0.1, 0.05)?;
        let at = |by: f64| -> ferrotune::Result<Tensor> {
            let x = x.affine(1.0, by)?.to_dtype(dtype)?;
            Ok(swiglu::forward(&x, &x.ones_like()?)?.to_dtype(DType::F64)?)
        };
        let slope = ((at(h)? - at(-h)?)? / (2.0 * h))?;
        let (exact, _) = swiglu::backward(&x, &x.ones_like()?, &x.ones_like()?)?;
        Ok((slope - exact)?.sqr()?.mean_all()?.to_scalar::<f64>()?.sqrt())
    }
    // ANCHOR_END: step

    // ANCHOR: step-figure tolerance=0.9
    fn curve(dtype: DType) -> ferrotune::Result<Vec<(f64, f64)>> {
        let steps = (1..=24).map(|i| 10f64.powf(-0.5 * f64::from(i)));
        steps.map(|h| Ok((h, error(dtype, h)?))).collect()
    }
    let (single, double) = (curve(DType::F32)?, curve(DType::F64)?);
    let chart = Chart::new("Error of a central difference by its step").log_x().log_y();
    let chart = chart.x("step h").y("error of the derivative");
    svg(chart.dotted("in 32 bits", single.clone()).dotted("in 64 bits", double.clone()));
    // ANCHOR_END: step-figure

    // ANCHOR: best tolerance=0.9
    let mut best = Table::new(["numbers of", "best step", "error there"]).numeric();
    for (name, points) in [("32 bits", &single), ("64 bits", &double)] {
        let least = points.iter().min_by(|a, b| a.1.total_cmp(&b.1));
        let (h, least) = least.copied().unwrap_or_default();
        best.row([name.to_owned(), format!("{h:.0e}"), format!("{least:.0e}")]);
    }
    table(best);
    // ANCHOR_END: best

    // ANCHOR: check
    /// The largest difference, as a share of the largest number of the second.
    fn apart(p: &Tensor, q: &Tensor) -> candle_core::Result<f64> {
        let largest = |t: &Tensor| t.abs()?.max_all()?.to_scalar::<f64>();
        Ok(largest(&(p.to_dtype(DType::F64)? - q)?)? / largest(q)?)
    }
    fn check(names: &[&str], ours: Op, plain: Op, inputs: &[Tensor]) -> ferrotune::Result<()> {
        let (candle, slopes) =
            (gradients(plain, inputs, DType::F64)?, differences(ours, inputs, 1e-5)?);
        for (i, name) in names.iter().enumerate() {
            let a = apart(&gradients(ours, inputs, DType::F32)?[i], &candle[i])? < 1e-4;
            let b = apart(&gradients(ours, inputs, DType::F64)?[i], &slopes[i])? < 1e-6;
            println!("{name}: as candle's to 1e-4: {a}, as differences to 1e-6: {b}");
        }
        Ok(())
    }
    // ANCHOR_END: check

    // ANCHOR: linear
    use ferrotune::ops::qlora_linear::{self, LoraBranch, Needs};
    use ferrotune::ops::weight::{QuantizedWeight, Weight};

    /// A weight of 16 x 32, in four bits.
    fn frozen() -> ferrotune::Result<Weight> {
        let values = numbers(16, 32, 0.3)?.to_dtype(DType::F32)?.flatten_all()?;
        let values = values.to_vec1::<f32>()?;
        let q = Quantized::quantize(&values, [16, 32], QuantType::Nf4, 32, true)?;
        Ok(QuantizedWeight::new(&q, &Device::Cpu)?.into())
    }
    fn linear(t: &[Tensor]) -> ferrotune::Result<Tensor> {
        let branch = LoraBranch { a: &t[1], b: &t[2], scale: 2.0, dropout: None };
        qlora_linear::apply(&t[0], &frozen()?, None, Some(&branch))
    }
    // ANCHOR_END: linear

    // ANCHOR: linear-check
    fn plain_linear(t: &[Tensor]) -> ferrotune::Result<Tensor> {
        let w = frozen()?.dequantize(t[0].dtype())?;
        let branch = (t[0].matmul(&t[1].t()?)?.matmul(&t[2].t()?)? * 2.0)?;
        Ok((t[0].matmul(&w.t()?)? + branch)?)
    }
    let (x, a, b) = (numbers(3, 32, 0.1)?, numbers(4, 32, 0.2)?, numbers(16, 4, 0.4)?);
    check(&["x", "A", "B"], linear, plain_linear, &[x, a, b])?;
    // ANCHOR_END: linear-check

    // ANCHOR: tape
    let x = Var::from_tensor(&numbers(3, 32, 0.1)?)?;
    let w = frozen()?.dequantize(DType::F64)?.t()?;
    let tape = total(&x.matmul(&w)?)?.backward()?;
    let found = [tape.get(&x).is_some(), tape.get(&w).is_some()];
    println!("gradient of x: {}, of the frozen W: {}", found[0], found[1]);
    // ANCHOR_END: tape

    // ANCHOR: norm
    use ferrotune::ops::rms_norm;

    fn norm(t: &[Tensor]) -> ferrotune::Result<Tensor> {
        rms_norm::apply(&t[0], &t[1], 1e-5)
    }
    fn plain_norm(t: &[Tensor]) -> ferrotune::Result<Tensor> {
        let root = (t[0].sqr()?.mean_keepdim(D::Minus1)? + 1e-5)?.sqrt()?;
        Ok(t[0].broadcast_div(&root)?.broadcast_mul(&t[1])?)
    }
    let scale = numbers(1, 16, 0.2)?.flatten_all()?;
    check(&["x", "w"], norm, plain_norm, &[numbers(4, 16, 0.1)?, scale.clone()])?;
    // ANCHOR_END: norm

    // ANCHOR: rope
    use ferrotune::ops::rope::{self, RopeTable};

    /// Three tokens at the positions 0, 1 and 7; two heads of queries, one of keys.
    fn turned(t: &[Tensor]) -> ferrotune::Result<Tensor> {
        let table = RopeTable::new(&[1.0, 0.1], 16, 1.0, &Device::Cpu)?;
        let (q, k) = rope::apply(&t[0], &t[1], &table, &[0, 1, 7])?;
        Ok(Tensor::cat(&[q, k], 1)?)
    }
    // ANCHOR_END: rope

    // ANCHOR: rope-check
    fn plain_turned(t: &[Tensor]) -> ferrotune::Result<Tensor> {
        let angles = Tensor::new(&[[0f64, 0.0], [1.0, 0.1], [7.0, 0.7]], &Device::Cpu)?;
        let angles = angles.to_dtype(t[0].dtype())?;
        let (cos, sin) = (angles.cos()?, angles.sin()?);
        let mut halves = Vec::new();
        for head in [t[0].narrow(1, 0, 4)?, t[0].narrow(1, 4, 4)?, t[1].clone()] {
            let (first, second) = (head.narrow(1, 0, 2)?, head.narrow(1, 2, 2)?);
            halves.push((first.mul(&cos)? - second.mul(&sin)?)?);
            halves.push((second.mul(&cos)? + first.mul(&sin)?)?);
        }
        Ok(Tensor::cat(&halves, 1)?)
    }
    check(&["q", "k"], turned, plain_turned, &[numbers(3, 8, 0.1)?, numbers(3, 4, 0.2)?])?;
    // ANCHOR_END: rope-check

    // ANCHOR: swiglu
    fn gated(t: &[Tensor]) -> ferrotune::Result<Tensor> {
        swiglu::apply(&t[0], &t[1])
    }
    fn plain_gated(t: &[Tensor]) -> ferrotune::Result<Tensor> {
        let sigmoid = (t[0].neg()?.exp()? + 1.0)?.recip()?;
        Ok(t[0].mul(&sigmoid)?.mul(&t[1])?)
    }
    check(&["gate", "up"], gated, plain_gated, &[numbers(4, 16, 0.1)?, numbers(4, 16, 0.2)?])?;
    // ANCHOR_END: swiglu

    // ANCHOR: attention
    use ferrotune::ops::attention::{self, Heads};

    /// Five tokens, the first three of one sequence; two heads of queries share one of keys.
    fn attend(t: &[Tensor]) -> ferrotune::Result<Tensor> {
        let heads = Heads { n_heads: 2, n_kv_heads: 1, head_dim: 4 };
        attention::apply(&t[0], &t[1], &t[2], &[0, 3, 5], &heads)
    }
    /// 0 where a token may look, and so low elsewhere that the exponential is 0.
    fn mask(dtype: DType) -> candle_core::Result<Tensor> {
        let seen = |i: usize, j: usize| j <= i && (i < 3) == (j < 3);
        let mask = (0..25).map(|n| if seen(n / 5, n % 5) { 0.0 } else { -1e9 });
        Tensor::from_vec(mask.collect::<Vec<f64>>(), (5, 5), &Device::Cpu)?.to_dtype(dtype)
    }
    // ANCHOR_END: attention

    // ANCHOR: attention-check
    fn plain_attend(t: &[Tensor]) -> ferrotune::Result<Tensor> {
        let mut heads = Vec::new();
        for head in 0..2 {
            let q = t[0].narrow(1, 4 * head, 4)?.contiguous()?;
            let scores = ((q.matmul(&t[1].t()?)? * 0.5)? + mask(q.dtype())?)?;
            let exp = scores.exp()?;
            let p = exp.broadcast_div(&exp.sum_keepdim(1)?)?;
            heads.push(p.matmul(&t[2])?);
        }
        Ok(Tensor::cat(&heads, 1)?)
    }
    let (q, k, v) = (numbers(5, 8, 0.1)?, numbers(5, 4, 0.2)?, numbers(5, 4, 0.3)?);
    check(&["q", "k", "v"], attend, plain_attend, &[q, k, v])?;
    // ANCHOR_END: attention-check

    // ANCHOR: loss
    use ferrotune::ops::linear_cross_entropy::{self, IGNORE_INDEX, Wants};

    /// Four tokens, of which the second has no target; a vocabulary of nine.
    fn summed(t: &[Tensor]) -> ferrotune::Result<Tensor> {
        let targets = [3, IGNORE_INDEX, 0, 8];
        let wants = Wants::HiddenAndHeadGradient;
        Ok(linear_cross_entropy::apply(&t[0], &t[1], &targets, wants)?.0)
    }
    // ANCHOR_END: loss

    // ANCHOR: loss-check
    fn plain_summed(t: &[Tensor]) -> ferrotune::Result<Tensor> {
        let rows = Tensor::new(&[0u32, 2, 3], &Device::Cpu)?;
        let targets = Tensor::new(&[[3u32], [0], [8]], &Device::Cpu)?;
        let logits = t[0].index_select(&rows, 0)?.matmul(&t[1].t()?)?;
        let log_sum = logits.exp()?.sum_keepdim(1)?.log()?;
        Ok((log_sum - logits.gather(&targets, 1)?)?.sum_all()?)
    }
    check(&["h", "W"], summed, plain_summed, &[numbers(4, 8, 0.1)?, numbers(9, 8, 0.2)?])?;
    // ANCHOR_END: loss-check

    // ANCHOR: kept
    let (t, h, mlp, vocab, heads, r) = (1024.0, 576.0, 1536.0, 49152.0, 9.0, 16.0);
    let mut kept = Table::new(["MB for 1,024 tokens", "ours", "plain tensors"]).numeric();
    for (name, ours, plain) in [
        ("linear (up)", t * r, mlp * h + 3.0 * t * mlp + t * r),
        ("RMSNorm", t, 2.0 * t * h + 3.0 * t),
        ("RoPE (queries)", t, 3.0 * t * h),
        ("SwiGLU", 0.0, 5.0 * t * mlp),
        ("attention", t * heads, heads * (5.0 * t * t + 65.0 * t)),
        ("linear and loss", t * h, 2.0 * t * vocab + 3.0 * t),
    ] {
        kept.numbers(name, [ours * 4e-6, plain * 4e-6], 3);
    }
    table(kept);
    // ANCHOR_END: kept

    // ANCHOR: severed
    let x = Var::from_tensor(&numbers(4, 16, 0.1)?.to_dtype(DType::F32)?)?;
    let w = scale.to_dtype(DType::F32)?;
    let theirs = candle_nn::ops::rms_norm(&x, &w, 1e-5)?;
    let ours = rms_norm::apply(&x, &w, 1e-5)?;
    println!("the same output: {}", apart(&theirs, &ours.to_dtype(DType::F64)?)? < 1e-5);
    for (name, y) in [("candle's fused norm", theirs), ("ours", ours)] {
        let found = total(&y)?.backward()?.get(&x).is_some();
        println!("{name}: x has a gradient: {found}");
    }
    // ANCHOR_END: severed

    // ANCHOR: forgotten
    use ferrotune::ops::graph;

    /// RMSNorm with a backward that forgets that the root depends on x, too.
    fn forgotten(t: &[Tensor]) -> ferrotune::Result<Tensor> {
        let (y, saved) = rms_norm::forward(&t[0], &t[1], 1e-5)?;
        let slope = saved.inv_rms.unsqueeze(1)?.broadcast_mul(&t[1].detach())?;
        graph::attach(&[&t[0]], y, move |dy| Ok(vec![Some(dy.mul(&slope)?)]))
    }
    check(&["x"], forgotten, plain_norm, &[numbers(4, 16, 0.1)?, scale.clone()])?;
    // ANCHOR_END: forgotten

    // ANCHOR: no-gradient raises-exception
    let x = numbers(3, 32, 0.1)?;
    let (y, saved) = qlora_linear::forward(&x, &frozen()?, None, None)?;
    let needs = Needs { dx: true, dw: true };
    qlora_linear::backward(&x, &frozen()?, None, &saved, &y, needs)?;
    // ANCHOR_END: no-gradient

    // ANCHOR: squared solution
    fn squared(t: &[Tensor]) -> ferrotune::Result<Tensor> {
        let positive = t[0].detach().relu()?;
        let y = positive.sqr()?;
        graph::attach(&[&t[0]], y, move |dy| Ok(vec![Some((dy.mul(&positive)? * 2.0)?)]))
    }
    fn plain_squared(t: &[Tensor]) -> ferrotune::Result<Tensor> {
        Ok(t[0].relu()?.sqr()?)
    }
    check(&["x"], squared, plain_squared, &[numbers(4, 16, 0.1)?])?;
    // ANCHOR_END: squared

    // ANCHOR: alone solution
    fn alone(t: &[Tensor]) -> ferrotune::Result<Tensor> {
        let heads = Heads { n_heads: 1, n_kv_heads: 1, head_dim: 4 };
        attention::apply(&t[0], &t[1], &t[2], &[0, 1, 2, 3], &heads)
    }
    let inputs = [numbers(3, 4, 0.1)?, numbers(3, 4, 0.2)?, numbers(3, 4, 0.3)?];
    for (name, gradient) in ["q", "k", "v"].iter().zip(gradients(alone, &inputs, DType::F64)?) {
        let largest = gradient.abs()?.max_all()?.to_scalar::<f64>()?;
        println!("{name}: the gradient is zero: {}", largest < 1e-12);
    }
    // ANCHOR_END: alone

    Ok(())
}
