//! `linear_cross_entropy`.

use super::{close, differences, random, values};
use ferrotune::Result;
use ferrotune::candle_core::{DType, Device, Tensor, Var};
use ferrotune::ops::linear_cross_entropy::{self, IGNORE_INDEX, Wants};

/// T, V, H, every how many-th row has no target (0: all have one, 1: none has one).
const LOSS_CASES: &[(usize, usize, usize, usize)] =
    &[(1, 7, 3, 0), (5, 7, 4, 2), (6, 7, 4, 1), (9, 513, 16, 3), (300, 1100, 48, 4), (1100, 600, 8, 0)];

struct LossInputs {
    h: Tensor,
    w: Tensor,
    targets: Vec<u32>,
}

fn loss_inputs(&(t, vocab, hidden, skip): &(usize, usize, usize, usize)) -> LossInputs {
    let target = |i: usize| (values(t, 3)[i] + 0.5) as f64 * vocab as f64;
    let ignored = |i: usize| skip > 0 && i.is_multiple_of(skip);
    let targets = (0..t).map(|i| if ignored(i) { IGNORE_INDEX } else { target(i) as u32 }).collect();
    // Logits of a few units, so that probabilities differ.
    let h = (random(t, hidden, 1) * 8.).unwrap();
    LossInputs { h, w: random(vocab, hidden, 2), targets }
}

/// The loss sum and its gradients by candle's autograd in f64.
fn loss_by_autograd(inputs: &LossInputs) -> Result<(f64, Tensor, Tensor)> {
    let h = Var::from_tensor(&inputs.h.to_dtype(DType::F64)?)?;
    let w = Var::from_tensor(&inputs.w.to_dtype(DType::F64)?)?;
    let rows = (0..inputs.targets.len() as u32).filter(|&i| inputs.targets[i as usize] != IGNORE_INDEX);
    let rows = rows.collect::<Vec<_>>();
    if rows.is_empty() {
        return Ok((0., h.zeros_like()?, w.zeros_like()?));
    }
    let ids = rows.iter().map(|&i| inputs.targets[i as usize]).collect::<Vec<_>>();
    let n = rows.len();
    let logits = h.index_select(&Tensor::from_vec(rows, n, h.device())?, 0)?.matmul(&w.t()?)?;
    let log_sum = logits.exp()?.sum_keepdim(1)?.log()?;
    let loss = (log_sum - logits.gather(&Tensor::from_vec(ids, (n, 1), h.device())?, 1)?)?.sum_all()?;
    let store = loss.backward()?;
    Ok((loss.to_scalar()?, store.get(&h).unwrap().clone(), store.get(&w).unwrap().clone()))
}

#[test]
fn equals_autograd_in_every_form() -> Result<()> {
    for case in LOSS_CASES {
        let inputs = loss_inputs(case);
        let LossInputs { h, w, targets } = &inputs;
        let (loss, dh, dw) = loss_by_autograd(&inputs)?;
        let count = targets.iter().filter(|&&t| t != IGNORE_INDEX).count();
        let (h64, w64) = (h.to_dtype(DType::F64)?, w.to_dtype(DType::F64)?);
        type Forward =
            fn(&Tensor, &Tensor, &[u32], Wants) -> Result<(linear_cross_entropy::Output, linear_cross_entropy::Saved)>;
        let fused: Forward = linear_cross_entropy::forward;
        let portable: Forward = linear_cross_entropy::portable::forward;
        let single = f32::EPSILON as f64;
        let forms = [
            ("fused f32", fused, h, w, single),
            ("portable f32", portable, h, w, single),
            ("portable f64", portable, &h64, &w64, 4. * f64::EPSILON),
        ];
        for (name, forward, h, w, unit) in forms {
            let name = format!("{name}, {case:?}");
            // Errors of logits, and so of probabilities, are those of sums of H terms times their size, about 8.
            let (t, vocab, hidden) = (case.0, case.1, case.2);
            let unit = 8. * unit;
            for wants in [Wants::Loss, Wants::HiddenGradient, Wants::HiddenAndHeadGradient] {
                let (output, saved) = forward(h, w, targets, wants)?;
                assert_eq!(output.count, count, "{name}");
                let scalar = |v: f64| Tensor::new(&[v], &Device::Cpu);
                close(&name, &scalar(output.loss_sum)?, &scalar(loss)?, unit, hidden);
                if wants == Wants::Loss {
                    assert!(linear_cross_entropy::backward(saved, 1.).is_err(), "{name}");
                    continue;
                }
                let (got_dh, got_dw) = linear_cross_entropy::backward(saved, 0.5)?;
                close(&format!("{name}, dh"), &got_dh, &(&dh * 0.5)?, unit, hidden + vocab);
                assert_eq!(got_dw.is_some(), wants == Wants::HiddenAndHeadGradient);
                if let Some(got_dw) = got_dw {
                    close(&format!("{name}, dw"), &got_dw, &(&dw * 0.5)?, unit, hidden + t);
                }
            }
        }
    }
    Ok(())
}

/// In bf16 the inputs are rounded already; exponentials and the gradient are rounded once more.
#[test]
fn in_bf16_equals_autograd_of_the_rounded_inputs() -> Result<()> {
    for case in LOSS_CASES {
        let LossInputs { h, w, targets } = loss_inputs(case);
        let (h, w) = (h.to_dtype(DType::BF16)?, w.to_dtype(DType::BF16)?);
        let rounded = LossInputs { h: h.to_dtype(DType::F32)?, w: w.to_dtype(DType::F32)?, targets: targets.clone() };
        let (loss, dh, _) = loss_by_autograd(&rounded)?;
        let (output, saved) = linear_cross_entropy::forward(&h, &w, &targets, Wants::HiddenGradient)?;
        let scalar = |v: f64| Tensor::new(&[v], &Device::Cpu);
        close(&format!("bf16 loss, {case:?}"), &scalar(output.loss_sum)?, &scalar(loss)?, 1e-5, 1);
        let (got, _) = linear_cross_entropy::backward(saved, 1.)?;
        close(&format!("bf16 dh, {case:?}"), &got, &dh, 2f64.powi(-7), 1);
        let (output, _) = linear_cross_entropy::forward(&h, &w, &targets, Wants::Loss)?;
        close(&format!("bf16 loss alone, {case:?}"), &scalar(output.loss_sum)?, &scalar(loss)?, 1e-5, 1);
    }
    Ok(())
}

#[test]
fn equals_finite_differences() -> Result<()> {
    for case in LOSS_CASES.iter().filter(|c| c.1 == 7) {
        let LossInputs { h, w, targets } = loss_inputs(case);
        let (h, w) = (h.to_dtype(DType::F64)?, w.to_dtype(DType::F64)?);
        let loss =
            |h: &Tensor, w: &Tensor| linear_cross_entropy::forward(h, w, &targets, Wants::Loss).unwrap().0.loss_sum;
        let (_, saved) = linear_cross_entropy::forward(&h, &w, &targets, Wants::HiddenAndHeadGradient)?;
        let (dh, dw) = linear_cross_entropy::backward(saved, 1.)?;
        // The third derivative over six, times the step squared: at most a few 1e-7 with inputs of size 4.
        close(&format!("dh, {case:?}"), &dh, &differences(h.clone(), |h| loss(&h, &w)), 1e-6, 1);
        close(&format!("dw, {case:?}"), &dw.unwrap(), &differences(w.clone(), |w| loss(&h, &w)), 1e-6, 1);
    }
    Ok(())
}

#[test]
fn in_candles_graph_has_its_gradients() -> Result<()> {
    let LossInputs { h, w, targets } = loss_inputs(&LOSS_CASES[3]);
    let (h, w) = (Var::from_tensor(&h)?, Var::from_tensor(&w)?);
    let wants = Wants::HiddenAndHeadGradient;
    let (loss, count) = linear_cross_entropy::apply(&h, &w, &targets, wants)?;
    let store = (loss / count as f64)?.backward()?;
    let (_, saved) = linear_cross_entropy::forward(&h, &w, &targets, wants)?;
    let (dh, dw) = linear_cross_entropy::backward(saved, 1. / count as f64)?;
    close("dh", store.get(&h).unwrap(), &dh, 0., 0);
    close("dw", store.get(&w).unwrap(), &dw.unwrap(), 0., 0);
    Ok(())
}

#[test]
fn large_logits_do_not_overflow_and_nan_is_not_hidden() -> Result<()> {
    let w = Tensor::new(&[[100f32], [0.], [-100.]], &Device::Cpu)?;
    let h = Tensor::new(&[[50f32], [-50.], [1.]], &Device::Cpu)?;
    let (output, saved) = linear_cross_entropy::forward(&h, &w, &[0, 2, 1], Wants::HiddenGradient)?;
    assert_eq!(output.loss_sum, 100.);
    let (dh, _) = linear_cross_entropy::backward(saved, 1.)?;
    assert_eq!(dh.to_vec2::<f32>()?, [[0.], [0.], [100.]]);
    let (output, _) = linear_cross_entropy::forward(&(h * f64::NAN)?, &w, &[0, 2, 1], Wants::Loss)?;
    assert!(output.loss_sum.is_nan());
    Ok(())
}

#[test]
fn a_target_outside_the_vocabulary_is_an_input_error() {
    let (h, w) = (random(2, 3, 1), random(7, 3, 2));
    let error = linear_cross_entropy::forward(&h, &w, &[0, 7], Wants::Loss).unwrap_err();
    assert!(error.is_input());
    assert!(error.to_string().contains("target 7 is outside the vocabulary of 7 tokens"), "{error}");
    assert!(linear_cross_entropy::forward(&h, &w, &[0], Wants::Loss).is_err());
}
