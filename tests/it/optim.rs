//! Schedules, AdamW and clipping against transformers and torch, and the forms of AdamW against each other.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use ferrotune::Error;
use ferrotune::train::adamw::{AdamW, Hyperparameters};
use ferrotune::train::clip::clip_grad_norm;
use ferrotune::train::schedule::{Schedule, SchedulerType};
use serde_json::Value;

fn golden(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn tensors(shapes: &Value, data: &Value) -> Vec<(String, Tensor)> {
    let shapes = shapes.as_object().unwrap();
    let tensor = |name: &str, shape: &Value| {
        let shape: Vec<usize> = serde_json::from_value(shape.clone()).unwrap();
        Tensor::from_vec(floats(&data[name]), shape, &Device::Cpu).unwrap()
    };
    shapes.iter().map(|(name, shape)| (name.clone(), tensor(name, shape))).collect()
}

/// Every element within `relative` of the expected one, or within `relative` of 1 near zero.
fn assert_close(what: &str, got: &[f32], expected: &[f32], relative: f32) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        let bound = relative * e.abs().max(1e-3);
        assert!((g - e).abs() <= bound, "{what}[{i}]: {g} is not {e} within {bound}");
    }
}

/// An optimizer's state as it comes back from a checkpoint.
fn state(optimizer: &AdamW) -> BTreeMap<String, Tensor> {
    optimizer.state().unwrap().into_iter().map(|(name, stored)| (name, stored.to_tensor().unwrap())).collect()
}

#[test]
fn schedules_are_those_of_transformers() {
    let golden = golden("schedule.json");
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() >= 10);
    for case in cases {
        let kind: SchedulerType = serde_json::from_value(case["type"].clone()).unwrap();
        let (ratio, total) = (case["warmup_ratio"].as_f64().unwrap(), case["total_steps"].as_u64().unwrap() as usize);
        let schedule = Schedule::new(kind, ratio, total);
        assert_eq!(schedule.warmup_steps() as u64, case["warmup_steps"].as_u64().unwrap(), "{kind:?} {ratio} {total}");
        let factors = case["factors"].as_array().unwrap();
        assert_eq!(factors.len(), total);
        for (step, expected) in factors.iter().enumerate() {
            let (got, expected) = (schedule.factor(step), expected.as_f64().unwrap());
            assert!(
                (got - expected).abs() <= 1e-15,
                "{kind:?} {ratio} {total}, step {step}: {got}, expected {expected}"
            );
        }
    }
}

#[test]
fn steps_past_the_last_stay_at_zero() {
    assert_eq!(Schedule::new(SchedulerType::Linear, 0.1, 10).factor(25), 0.0);
    assert!(Schedule::new(SchedulerType::Cosine, 0.1, 10).factor(10) < 1e-12);
}

#[test]
fn adamw_and_clipping_follow_torch_for_ten_steps() {
    let golden = golden("adamw.json");
    for (c, case) in golden["cases"].as_array().unwrap().iter().enumerate() {
        let number = |key: &str| case[key].as_f64().unwrap();
        let hyper = Hyperparameters {
            beta1: number("beta1"),
            beta2: number("beta2"),
            eps: number("eps"),
            weight_decay: number("weight_decay"),
        };
        for portable in [false, true] {
            let params = tensors(&case["shapes"], &case["initial"]);
            let build = if portable { AdamW::portable } else { AdamW::new };
            let mut optimizer = build(&params, hyper).unwrap();
            let mut clipped = 0;
            for (i, step) in case["steps"].as_array().unwrap().iter().enumerate() {
                let what = format!("case {c}, portable {portable}, step {i}");
                let mut grads: Vec<_> = tensors(&case["shapes"], &step["grads"]).into_iter().map(|(_, g)| g).collect();
                let norm = clip_grad_norm(&mut grads, number("max_norm")).unwrap();
                let expected = step["grad_norm"].as_f64().unwrap();
                assert!((norm - expected).abs() <= 1e-6 * expected, "{what}: norm {norm}, expected {expected}");
                clipped += usize::from(norm > number("max_norm"));
                optimizer.step(&params, &grads, step["lr"].as_f64().unwrap()).unwrap();
                for (name, param) in &params {
                    assert_close(&format!("{what}, {name}"), &values(param), &floats(&step["params"][name]), 4e-7);
                }
            }
            assert!((1..10).contains(&clipped), "some steps are clipped and some are not, here {clipped}");
            let state = state(&optimizer);
            for (name, _) in &params {
                for moment in ["exp_avg", "exp_avg_sq"] {
                    let got = values(&state[&format!("{moment}.{name}")]);
                    assert_close(&format!("{moment}.{name}"), &got, &floats(&case["state"][name][moment]), 1e-5);
                }
            }
        }
    }
}

/// Numbers in (-1, 1) that are a pure function of `seed`.
fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn random(shape: (usize, usize), seed: u64) -> Tensor {
    Tensor::from_vec(noise(shape.0 * shape.1, seed), shape, &Device::Cpu).unwrap()
}

/// Two parameters, one longer than a task's share, and both forms' optimizers over copies of them.
fn pair(hyper: Hyperparameters) -> [(Vec<(String, Tensor)>, AdamW); 2] {
    [false, true].map(|portable| {
        let params = vec![("a".to_string(), random((257, 131), 1)), ("b".to_string(), random((1, 5), 2))];
        let optimizer = if portable { AdamW::portable(&params, hyper) } else { AdamW::new(&params, hyper) };
        (params, optimizer.unwrap())
    })
}

fn gradients(step: u64) -> Vec<Tensor> {
    vec![random((257, 131), 10 + step), random((1, 5), 100 + step)]
}

#[test]
fn fused_and_portable_adamw_give_the_same_bits() {
    let hyper = Hyperparameters { weight_decay: 0.05, ..Default::default() };
    let [(fused_params, mut fused), (portable_params, mut portable)] = pair(hyper);
    for step in 0..5 {
        fused.step(&fused_params, &gradients(step), 1e-3).unwrap();
        portable.step(&portable_params, &gradients(step), 1e-3).unwrap();
    }
    assert_ne!(values(&fused_params[0].1), noise(257 * 131, 1), "the parameters moved");
    for ((name, a), (_, b)) in fused_params.iter().zip(&portable_params) {
        assert_eq!(values(a), values(b), "{name}");
    }
    let (a, b) = (state(&fused), state(&portable));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for name in ["exp_avg.a", "exp_avg_sq.a", "exp_avg.b", "exp_avg_sq.b"] {
        assert_eq!(values(&a[name]), values(&b[name]), "{name}");
    }
}

#[test]
fn a_clone_of_a_parameter_sees_the_step() {
    for (params, mut optimizer) in pair(Hyperparameters::default()) {
        let (model, before) = (params[0].1.clone(), values(&params[0].1));
        optimizer.step(&params, &gradients(0), 1e-2).unwrap();
        // The first step moves by the rate against the gradient's sign.
        let after = values(&model);
        for (i, (&x, &g)) in before.iter().zip(&values(&gradients(0)[0])).enumerate() {
            assert!((after[i] - (x - 1e-2 * g.signum())).abs() < 1e-4 || g.abs() < 1e-5, "{i}: {x} {g} {}", after[i]);
        }
    }
}

#[test]
fn a_restored_optimizer_goes_on_with_the_same_bits() {
    for which in 0..2 {
        let run = |interrupted: bool| {
            let (params, mut optimizer) = pair(Hyperparameters::default()).into_iter().nth(which).unwrap();
            for step in 0..6 {
                if interrupted && step == 3 {
                    let state = state(&optimizer);
                    optimizer = pair(Hyperparameters::default()).into_iter().nth(which).unwrap().1;
                    optimizer.load_state(&state, Path::new("optimizer.safetensors")).unwrap();
                    assert_eq!(optimizer.step_count(), 3);
                }
                optimizer.step(&params, &gradients(step), 1e-3).unwrap();
            }
            values(&params[0].1)
        };
        assert_eq!(run(true), run(false));
    }
}

#[test]
fn a_state_that_does_not_fit_is_refused_by_name() {
    let [(_, mut optimizer), _] = pair(Hyperparameters::default());
    let good = state(&optimizer);
    let refused = |change: &dyn Fn(&mut BTreeMap<String, Tensor>), optimizer: &mut AdamW| {
        let mut state = good.clone();
        change(&mut state);
        let error = optimizer.load_state(&state, Path::new("ckpt/optimizer.safetensors")).unwrap_err();
        assert!(error.is_input() && error.to_string().contains("ckpt/optimizer.safetensors"), "{error}");
        error.to_string()
    };
    let message = refused(&|s| drop(s.remove("exp_avg.b")), &mut optimizer);
    assert!(message.contains("`exp_avg.b`") && message.contains("is missing"), "{message}");
    let message = refused(&|s| drop(s.insert("exp_avg.c".into(), random((1, 5), 0))), &mut optimizer);
    assert!(message.contains("`exp_avg.c`"), "{message}");
    let message = refused(&|s| drop(s.insert("exp_avg_sq.b".into(), random((5, 1), 0))), &mut optimizer);
    assert!(message.contains("[5, 1]") && message.contains("[1, 5]"), "{message}");
    let message = refused(&|s| drop(s.insert("step".into(), random((1, 1), 0))), &mut optimizer);
    assert!(message.contains("`step`"), "{message}");
}

#[test]
fn gradients_that_do_not_fit_change_nothing() {
    let [(params, mut optimizer), _] = pair(Hyperparameters::default());
    let before = values(&params[0].1);
    let short = gradients(0)[..1].to_vec();
    let wrong_shape = vec![random((257, 131), 3), random((5, 1), 3)];
    let wrong_type = vec![random((257, 131), 3), random((1, 5), 3).to_dtype(DType::BF16).unwrap()];
    for grads in [short, wrong_shape, wrong_type] {
        let error = optimizer.step(&params, &grads, 1e-3).unwrap_err();
        assert!(matches!(error, Error::Shape { op: "adamw", .. }), "{error}");
    }
    assert_eq!((values(&params[0].1), optimizer.step_count()), (before, 0));
}

#[test]
fn clipping_scales_only_what_is_too_long() {
    let grads = || vec![Tensor::new(&[3f32, 0.], &Device::Cpu).unwrap(), Tensor::new(&[4f32], &Device::Cpu).unwrap()];
    for (max_norm, factor) in [(1.0, 1.0 / (5.0 + 1e-6)), (5.1, 1.0), (0.0, 1.0)] {
        let mut clipped = grads();
        assert_eq!(clip_grad_norm(&mut clipped, max_norm).unwrap(), 5.0);
        assert_eq!(values(&clipped[0]), [3.0 * factor as f32, 0.0], "max_norm {max_norm}");
        assert_eq!(values(&clipped[1]), [4.0 * factor as f32], "max_norm {max_norm}");
    }
    let mut broken = vec![Tensor::new(&[f32::NAN], &Device::Cpu).unwrap(), Tensor::new(&[4f32], &Device::Cpu).unwrap()];
    assert!(clip_grad_norm(&mut broken, 1.0).unwrap().is_nan());
    assert_eq!(values(&broken[1]), [4.0], "nothing is scaled by a norm that is not a number");
}

#[test]
fn the_norm_does_not_depend_on_threads_layout_or_type() {
    let tensor = random((300, 301), 5);
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let norm = |t: &Tensor, threads| pool(threads).install(|| clip_grad_norm(&mut [t.clone()], 0.0).unwrap());
    assert_eq!(norm(&tensor, 1).to_bits(), norm(&tensor, 3).to_bits());
    let exact = norm(&tensor, 1);
    assert!((norm(&tensor.t().unwrap(), 1) - exact).abs() < 1e-4 * exact, "not contiguous: summed in f32");
    let narrow = tensor.narrow(0, 100, 50).unwrap();
    assert_eq!(norm(&narrow, 1), norm(&narrow.copy().unwrap(), 1), "an offset into shared storage");
}
