//! Cells of the lesson `lora`: what two small matrices can change.

use crate::prelude::*;

pub(crate) fn lesson() -> crate::Outcome {
    // ANCHOR: count
    let (d_in, d_out, r) = (4096, 4096, 8);
    let w = d_out * d_in;
    let (a, b) = (r * d_in, d_out * r);
    println!("W: {w}, frozen");
    println!("A: {a}, B: {b}");
    println!("trained: {}", a + b);
    println!("share: {:.2}%", 100.0 * f64::from(a + b) / f64::from(w));
    // ANCHOR_END: count

    // ANCHOR: model
    let mut model = load("smollm2-135m", None)?;
    fn trained(model: &mut Model, r: usize, modules: &str) -> ferrotune::Result<usize> {
        let names = modules.split(' ').map(|name| format!("{name}_proj")).collect();
        let target_modules = TargetModules::Names(names);
        let adapter = model.adapt(LoraConfig { r, target_modules, ..LoraConfig::default() })?;
        Ok(adapter.parameter_count())
    }
    let mut counts = Table::new(["r", "q and v", "all seven", "share"]).numeric();
    for r in [1, 4, 8, 16, 64] {
        let two = trained(&mut model, r, "q v")?;
        let seven = trained(&mut model, r, "q k v o gate up down")?;
        let share = 100.0 * seven as f64 / model.decoder.base_parameter_count() as f64;
        counts.row([r.to_string(), two.to_string(), seven.to_string(), format!("{share:.2}%")]);
    }
    table(counts);
    // ANCHOR_END: model

    // ANCHOR: start
    model.decoder.remove_adapter();
    let text = "Two small matrices are trained, and a large one is not.";
    let before = model.logits(text)?;
    model.adapt(LoraConfig::default())?;
    let change = (model.logits(text)? - before)?.abs()?.max_all()?.to_scalar::<f32>()?;
    println!("largest change of a logit: {change}");
    // ANCHOR_END: start

    // ANCHOR: gradients tolerance=0.01
    fn norms(model: &Model, text: &str) -> ferrotune::Result<()> {
        let gradients = model.gradients(text)?;
        for matrix in ["lora_A", "lora_B"] {
            let mut squares = 0.0;
            for (_, gradient) in gradients.iter().filter(|(name, _)| name.contains(matrix)) {
                squares += f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?);
            }
            println!("gradient of all {matrix}: {:.4}", squares.sqrt());
        }
        Ok(())
    }
    norms(&model, text)?;
    // ANCHOR_END: gradients

    // ANCHOR: plain
    use candle_core::{Device, Tensor, Var};

    /// Numbers that are neither zero nor equal.
    fn waves(rows: usize, columns: usize) -> candle_core::Result<Tensor> {
        let numbers = Tensor::arange(0f32, (rows * columns) as f32, &Device::Cpu)?;
        numbers.affine(0.7, 0.1)?.sin()?.reshape((rows, columns))
    }
    let (x, w) = (waves(5, 64)?, waves(32, 64)?);
    let (a, b) = (Var::from_tensor(&waves(4, 64)?)?, Var::from_tensor(&waves(32, 4)?)?);
    let scale = 2.0;
    let branch = (x.matmul(&a.t()?)?.matmul(&b.t()?)? * scale)?;
    let plain = (x.matmul(&w.t()?)? + branch)?;
    let plain_gradients = plain.sqr()?.sum_all()?.backward()?;
    // ANCHOR_END: plain

    // ANCHOR: ours
    use ferrotune::ops::qlora_linear::{LoraBranch, apply};
    use ferrotune::ops::weight::Weight;

    let ours = {
        let branch = LoraBranch { a: &a, b: &b, scale, dropout: None };
        apply(&x, &Weight::Dense(w.clone()), None, Some(&branch))?
    };
    let our_gradients = ours.sqr()?.sum_all()?.backward()?;
    /// The largest difference, as a share of the largest number.
    fn difference(p: &Tensor, q: &Tensor) -> candle_core::Result<f32> {
        let largest = |t: Tensor| t.abs()?.max_all()?.to_scalar::<f32>();
        Ok(largest((p - q)?)? / largest(p.clone())?)
    }
    println!("outputs agree to 1e-5: {}", difference(&plain, &ours)? < 1e-5);
    // ANCHOR_END: ours

    // ANCHOR: agree
    for (name, v) in [("A", &a), ("B", &b)] {
        if let (Some(p), Some(q)) = (plain_gradients.get(v), our_gradients.get(v)) {
            println!("gradients of {name} agree to 1e-5: {}", difference(p, q)? < 1e-5);
        }
    }
    // ANCHOR_END: agree

    // ANCHOR: settings
    fn sft() -> SftConfig {
        SftConfig {
            max_steps: Some(60),
            per_device_train_batch_size: 1,
            gradient_accumulation_steps: 1,
            learning_rate: 1.5e-3,
            max_grad_norm: 1.0,
            max_length: 256,
            completion_only_loss: true,
            gradient_checkpointing: false,
            eval_strategy: Strategy::No,
            ..SftConfig::default()
        }
    }
    // ANCHOR_END: settings

    // ANCHOR: arm
    fn arm(r: usize, lora_alpha: f64, seed: u64) -> RunConfig {
        RunConfig {
            data: "../../datasets/orders/train.jsonl".into(),
            eval_data: Some("../../datasets/orders/test.jsonl".into()),
            lora: LoraConfig { r, lora_alpha, lora_dropout: 0.0, ..LoraConfig::default() },
            sft: sft(),
            seed,
            ..RunConfig::default()
        }
    }
    const RECORD: &str = "../../lessons/records/arms/lora.json";
    // ANCHOR_END: arm

    // ANCHOR: ranks tolerance=0.5
    let mut arms = Vec::new();
    for r in [1, 4, 16, 64] {
        for seed in 0..3 {
            arms.push((format!("r = {r}, seed {seed}"), arm(r, 2.0 * r as f64, seed)));
        }
    }
    let ranks = sweep(RECORD, "r = 16, seed 0", arms)?;
    table(ranks.table());
    // ANCHOR_END: ranks

    // ANCHOR: fixed
    let mut arms = Vec::new();
    for r in [1, 4, 16, 64] {
        for seed in 0..3 {
            arms.push((format!("r = {r}, seed {seed}"), arm(r, 32.0, seed)));
        }
    }
    let fixed = sweep(RECORD, "", arms)?;
    table(fixed.table());
    // ANCHOR_END: fixed

    // ANCHOR: rank-figure tolerance=0.3
    fn points(sweep: &Sweep) -> Vec<(f64, f64)> {
        [1.0, 4.0, 16.0, 64.0].into_iter().zip(sweep.groups().iter().map(|g| g.mean)).collect()
    }
    let chart = Chart::new("Loss on held-out orders by rank, with two rules for alpha").log_x();
    let chart = chart.x("rank").y("loss (nats per token)");
    svg(chart.dotted("alpha = 2r", points(&ranks)).dotted("alpha = 32", points(&fixed)));
    // ANCHOR_END: rank-figure

    // ANCHOR: alpha
    let (rates, alphas) = ([3e-4, 1e-3, 3e-3], [4.0, 16.0, 64.0]);
    let mut arms = Vec::new();
    for rate in rates {
        for alpha in alphas {
            let mut config = arm(8, alpha, 0);
            config.sft.learning_rate = rate;
            arms.push((format!("rate {rate}, alpha {alpha}"), config));
        }
    }
    let grid = sweep(RECORD, "", arms)?;
    // ANCHOR_END: alpha

    // ANCHOR: alpha-figure
    let mut losses =
        Table::new(["learning rate", "alpha = 4", "alpha = 16", "alpha = 64"]).numeric();
    let mut chart =
        Chart::new("Loss by alpha and learning rate").x("alpha").y("loss (nats per token)");
    chart = chart.log_x();
    for (rate, row) in rates.iter().zip(grid.arms.chunks(3)) {
        losses.numbers(format!("{rate}"), row.iter().map(|arm| arm.eval_loss), 3);
        let points = alphas.iter().zip(row).map(|(alpha, arm)| (*alpha, arm.eval_loss));
        chart = chart.dotted(format!("learning rate {rate}"), points);
    }
    table(losses);
    svg(chart);
    // ANCHOR_END: alpha-figure

    // ANCHOR: rslora
    let mut arms = Vec::new();
    for r in [4, 64] {
        for use_rslora in [false, true] {
            let mut config = arm(r, 16.0, 0);
            config.lora.use_rslora = use_rslora;
            arms.push((format!("r = {r}, factor {:.2}", config.lora.scaling()), config));
        }
    }
    let factors = sweep(RECORD, "", arms)?;
    table(factors.table());
    // ANCHOR_END: rslora

    // ANCHOR: modules
    let mut arms = Vec::new();
    for (r, modules) in [(13, "q k v o"), (8, "gate up down"), (5, "q k v o gate up down")] {
        let names = modules.split(' ').map(|name| format!("{name}_proj"));
        for seed in 0..3 {
            let mut config = arm(r, 2.0 * r as f64, seed);
            config.lora.target_modules = TargetModules::Names(names.clone().collect());
            arms.push((format!("{modules}, seed {seed}"), config));
        }
    }
    let places = sweep(RECORD, "", arms)?;
    table(places.table());
    // ANCHOR_END: modules

    // ANCHOR: spectrum within=2
    use ferrotune::lora::{peft, singular_values};

    let name = "model.layers.15.self_attn.v_proj";
    let run = ranks.live().and_then(|arm| arm.output_dir.clone()).unwrap_or_default();
    let adapter = peft::load(&run, &model.decoder.module_shapes(), &Device::Cpu)?;
    let update = adapter.layers[name].singular_values()?;
    let weight = singular_values(&model.weight(name)?)?;
    let squares: Vec<f64> = update.iter().map(|s| s * s).collect();
    let total: f64 = squares.iter().sum();
    let half = (1..16).find(|n| squares[..*n].iter().sum::<f64>() >= 0.5 * total).unwrap_or(16);
    let rank = update.iter().filter(|s| **s > 1e-4 * update[0]).count();
    println!("rank of the update: {rank}");
    println!("half of the update: {half}");
    // ANCHOR_END: spectrum

    // ANCHOR: spectrum-figure tolerance=0.5
    fn relative(values: &[f64]) -> Vec<(f64, f64)> {
        (1..).map(f64::from).zip(values.iter().map(|s| s / values[0])).take(64).collect()
    }
    let chart = Chart::new("Singular values of one layer's weight and of its update").log_y();
    let chart = chart.x("singular value").y("as a share of the largest");
    svg(chart.line("weight", relative(&weight)).dotted("update of rank 16", relative(&update)));
    // ANCHOR_END: spectrum-figure

    // ANCHOR: dead
    let mut dead = model.adapt(LoraConfig::default())?;
    for layer in dead.layers.values_mut() {
        layer.a = layer.a.zeros_like()?;
    }
    model.decoder.set_adapter(&dead, true)?;
    norms(&model, text)?;
    // ANCHOR_END: dead

    // ANCHOR: shapes raises-exception
    let (d_in, d_out, r) = (576, 192, 16);
    let a = waves(d_in, r)?;
    let b = waves(r, d_out)?;
    let product = b.matmul(&a)?;
    println!("{:?}", product.dims());
    // ANCHOR_END: shapes

    // ANCHOR: llama solution
    let (hidden, kv, mlp, r) = (3072, 1024, 8192, 16);
    let layers = [(hidden, hidden), (hidden, kv), (hidden, kv), (hidden, hidden)];
    let layers = layers.into_iter().chain([(hidden, mlp), (hidden, mlp), (mlp, hidden)]);
    let block: usize = layers.map(|(d_in, d_out)| r * (d_in + d_out)).sum();
    println!("trained in Llama-3.2-3B: {}", 28 * block);
    // ANCHOR_END: llama

    // ANCHOR: merge solution
    let merged = (&w + (b.matmul(&a)? * scale)?)?;
    let through = x.matmul(&merged.t()?)?;
    println!("merged and not merged agree to 1e-5: {}", difference(&plain, &through)? < 1e-5);
    // ANCHOR_END: merge

    Ok(())
}
