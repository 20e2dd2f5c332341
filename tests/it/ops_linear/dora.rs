//! `dora`, against candle's autograd in f32 with the norm as a constant, and against itself.

use super::{close, random, values};
use ferrotune::Result;
use ferrotune::candle_core::{Device, Tensor, Var};
use ferrotune::ops::dora::{self, Magnitude};
use ferrotune::ops::qlora_linear::{Dropout, LoraBranch, Needs};
use ferrotune::ops::weight::Weight;
use ferrotune::quant::{QuantType, Quantized};

const UNIT: f64 = 2e-6;

/// The weight of a case: dense, or NF4 with double quantization.
fn weight(out: usize, input: usize, quantized: bool) -> Weight {
    if !quantized {
        return Weight::Dense(random(out, input, 2));
    }
    let quantized = Quantized::quantize(&values(out * input, 2), [out, input], QuantType::Nf4, 64, true).unwrap();
    Weight::Quantized(ferrotune::ops::weight::QuantizedWeight::new(&quantized, &Device::Cpu).unwrap())
}

#[test]
fn values_and_gradients_are_those_of_the_formula() -> Result<()> {
    for (t, input, out, rank) in [(1, 4, 2, 1), (7, 64, 33, 4), (33, 130, 67, 16)] {
        for (dropout, quantized) in [(0.0, false), (0.0, true), (0.3, false), (0.3, true)] {
            let name = format!("{t}x{input}x{out} r {rank} dropout {dropout} quantized {quantized}");
            let w = weight(out, input, quantized);
            let [x, a, b] =
                [random(t, input, 1), random(rank, input, 3), random(out, rank, 4)].map(|t| Var::from_tensor(&t));
            let (x, a, b) = (x?, a?, b?);
            let m = Var::from_tensor(&(random(1, out, 5).flatten_all()? + 2.0)?)?;
            let dropout = Dropout { p: dropout, seed: 9 };
            let lora = LoraBranch { a: &a, b: &b, scale: 1.5, dropout: Some(dropout) };
            let squared = dora::row_norms_squared(&w)?;
            let magnitude = Magnitude { m: &m, weight_norms_squared: &squared };
            let dy = random(t, out, 6);

            let dense = w.dequantize(ferrotune::candle_core::DType::F32)?;
            let norms = (&dense + (b.matmul(&a)? * 1.5)?)?.detach().sqr()?.sum(1)?.sqrt()?;
            close(&format!("{name} norms"), &dora::row_norms(&w, &lora, &squared)?, &norms, UNIT, input);
            let kept = ((x.as_tensor() * dropout.mask(x.shape(), x.dtype(), x.device())?)? * dropout.scale())?;
            let z = (kept.matmul(&dense.t()?)? + (kept.matmul(&a.t()?)?.matmul(&b.t()?)? * 1.5)?)?;
            let turned = z.broadcast_mul(&(m.as_tensor() / &norms)?)?;
            let expected = (turned + (x.as_tensor() - &kept)?.matmul(&dense.t()?)?)?;
            let tape = (&expected * &dy)?.sum_all()?.backward()?;

            let (y, saved) = dora::forward(&x, &w, &lora, &magnitude)?;
            close(&format!("{name} y"), &y, &expected, UNIT, input);
            let needs = Needs { dx: true, dw: false };
            for saved in [saved, dora::saved(&x, &w, &lora)?] {
                let (grads, dm) = dora::backward(&x, &w, &lora, &magnitude, &saved, &dy, needs)?;
                close(&format!("{name} dm"), &dm, tape.get(&m).unwrap(), UNIT, t);
                for (what, got, var) in [("dx", &grads.dx, &x), ("dA", &grads.da, &a), ("dB", &grads.db, &b)] {
                    let got = got.as_ref().unwrap();
                    close(&format!("{name} {what}"), got, tape.get(var).unwrap(), UNIT, out.max(t).max(input));
                }
            }
        }
    }
    Ok(())
}

#[test]
fn magnitudes_of_another_layer_are_refused() {
    let (w, a, b) = (weight(3, 4, false), random(1, 4, 1), random(3, 1, 2));
    let lora = LoraBranch { a: &a, b: &b, scale: 1., dropout: None };
    let m = Tensor::new(&[1f32, 1.], &Device::Cpu).unwrap();
    let magnitude = Magnitude { m: &m, weight_norms_squared: &dora::row_norms_squared(&w).unwrap() };
    let error = dora::forward(&random(2, 4, 3), &w, &lora, &magnitude).unwrap_err().to_string();
    assert!(error.contains("3 outputs"), "{error}");
}
