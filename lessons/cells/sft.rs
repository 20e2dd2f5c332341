//! Cells of the lesson `sft`: a whole fine-tuning, from settings to answers.

use crate::prelude::*;

pub(crate) fn lesson() -> crate::Outcome {
    // ANCHOR: defaults
    let script = RunConfig::default();
    println!("{}", script.to_toml());
    // ANCHOR_END: defaults

    // ANCHOR: shape
    use ferrotune::train::plan::{Adapters, Method, Plan, Projection, Settings, Shape};

    /// Llama-3.2-3B, from its config.json.
    const LLAMA: Shape = Shape {
        layers: 28,
        hidden: 3072,
        intermediate: 8192,
        heads: 24,
        kv_heads: 8,
        head_dim: 128,
        vocab: 128_256,
        tied: true,
    };
    // ANCHOR_END: shape

    // ANCHOR: plan
    let adapters = Adapters::new(script.lora.r as u64, &Projection::ALL);
    let qlora = Method::Qlora { adapters: adapters.clone(), double_quant: true };
    let tokens = (script.sft.per_device_train_batch_size * script.sft.max_length) as u64;
    let plans = [Method::Full, Method::Lora(adapters), qlora].map(|method| {
        Plan::new(
            &LLAMA,
            &Settings { method, compute_bytes: 2, tokens, gradient_checkpointing: true },
        )
    });
    let mut memory = Table::new(["GB", "full", "LoRA", "QLoRA"]).numeric();
    for (i, (term, _)) in plans[0].terms().into_iter().enumerate() {
        memory.numbers(term, plans.iter().map(|plan| plan.terms()[i].1 as f64 / 1e9), 2);
    }
    memory.numbers("total", plans.iter().map(|plan| plan.total as f64 / 1e9), 2);
    table(memory);
    // ANCHOR_END: plan

    // ANCHOR: settings
    fn sft() -> SftConfig {
        SftConfig {
            max_steps: Some(120),
            per_device_train_batch_size: 1,
            gradient_accumulation_steps: 1,
            learning_rate: 1.5e-3,
            adam_beta2: 0.99,
            max_grad_norm: 1.0,
            max_length: 256,
            completion_only_loss: true,
            gradient_checkpointing: false,
            eval_strategy: Strategy::No,
            ..SftConfig::default()
        }
    }
    // ANCHOR_END: settings

    // ANCHOR: session
    fn config(folder: &str) -> RunConfig {
        RunConfig {
            model: "smollm2-135m".into(),
            data: "../../datasets/orders/train.jsonl".into(),
            output_dir: format!("../../runs/{folder}").into(),
            lora: LoraConfig { lora_dropout: 0.0, ..LoraConfig::default() },
            sft: sft(),
            ..RunConfig::default()
        }
    }
    std::fs::remove_dir_all("../../runs/sft").ok(); // what an earlier run of this page left
    let mut session = prepare(config("sft"))?;
    // ANCHOR_END: session

    // ANCHOR: before within=10
    let orders = read("../../datasets/orders/test.jsonl", 20)?;
    let before = evaluate(&session, &orders)?;
    table(scores(&[("before", &before)]));
    // ANCHOR_END: before

    // ANCHOR: train timing
    let training = train(&mut session)?;
    table(training.table());
    // ANCHOR_END: train

    // ANCHOR: curve tolerance=0.5
    let metrics = std::fs::read_to_string("../../runs/sft/metrics.jsonl")?;
    let rows: Vec<serde_json::Value> =
        metrics.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let mut curve = Table::new(["steps", "mean loss"]).numeric();
    for chunk in rows.chunks(20) {
        let losses: Vec<f64> = chunk.iter().filter_map(|row| row["loss"].as_f64()).collect();
        let (first, last) = (&chunk[0]["step"], &chunk[chunk.len() - 1]["step"]);
        curve.numbers(
            format!("{first} to {last}"),
            [losses.iter().sum::<f64>() / losses.len() as f64],
            3,
        );
    }
    table(curve);
    // ANCHOR_END: curve

    // ANCHOR: after within=30
    let after = evaluate(&session, &orders)?;
    table(scores(&[("before", &before), ("after", &after)]));
    // ANCHOR_END: after

    // ANCHOR: compare written
    table(compare(&orders[..8], &before, &after));
    // ANCHOR_END: compare

    // ANCHOR: stop
    use ferrotune::train::{self, Event, Observer, config::Resume};

    /// Watches a run, and asks it to stop after a step.
    struct StopAfter(usize, bool);

    impl Observer for StopAfter {
        fn event(&mut self, event: &Event) {
            self.1 |= matches!(event, Event::Step(step) if step.step >= self.0);
        }
        fn cancelled(&self) -> bool {
            self.1
        }
    }
    // ANCHOR_END: stop

    // ANCHOR: resume
    fn short(folder: &str, stop_after: usize) -> ferrotune::Result<Vec<u8>> {
        let mut config = config(folder);
        config.sft.max_steps = Some(12);
        config.resume_from_checkpoint = Some(Resume::Auto);
        let file = config.output_dir.join("adapter_model.safetensors");
        let mut session = prepare(config)?;
        if let Err(stopped) = train::run(&mut session, &mut StopAfter(stop_after, false)) {
            println!("{}", stopped.to_string().replace("../../", ""));
        }
        Ok(std::fs::read(file).unwrap_or_default())
    }
    for name in ["whole", "parts"] {
        std::fs::remove_dir_all(format!("../../runs/sft-{name}")).ok();
    }
    // ANCHOR_END: resume

    // ANCHOR: bytes
    let whole = short("sft-whole", 99)?;
    short("sft-parts", 5)?; // interrupted after five steps
    let parts = short("sft-parts", 99)?; // goes on from there
    println!("adapter: {} bytes", whole.len());
    println!("the same bytes: {}", whole == parts);
    // ANCHOR_END: bytes

    // ANCHOR: twice raises-exception
    let mut other = config("sft");
    other.lora.r = 8;
    prepare(other)?;
    // ANCHOR_END: twice

    // ANCHOR: mine solution written
    let mine = "Cho mình 2 ly trà đào ít đá với 1 cà phê sữa";
    println!("{}", answer(&session, mine)?);
    // ANCHOR_END: mine

    // ANCHOR: fast solution within=50
    let mut fast = config("sft-fast");
    std::fs::remove_dir_all(&fast.output_dir).ok();
    fast.sft.learning_rate = 0.05;
    fast.sft.max_steps = Some(30);
    let mut session = prepare(fast)?;
    println!(
        "{}",
        train::run(&mut session, &mut ()).map_or_else(|e| e.to_string(), |_| "it ended".into())
    );
    // ANCHOR_END: fast

    Ok(())
}
