//! Cells of the lesson `peft`: four ways to change a model, and what each costs.

use crate::prelude::*;

pub(crate) fn lesson() -> crate::Outcome {
    // ANCHOR: shape
    use ferrotune::train::plan::{
        Adapters, Method, Plan, Projection, Settings, Shape, trained_parameters,
    };

    /// Llama-3-8B, from its config.json.
    const LLAMA_8B: Shape = Shape {
        layers: 32,
        hidden: 4096,
        intermediate: 14_336,
        heads: 32,
        kv_heads: 8,
        head_dim: 128,
        vocab: 128_256,
        tied: false,
    };
    // ANCHOR_END: shape

    // ANCHOR: sum
    /// One row of 1,024 tokens in 16 bits; of each layer only its input is kept.
    fn settings(method: Method) -> Settings {
        Settings { method, compute_bytes: 2, tokens: 1024, gradient_checkpointing: true }
    }
    fn gb(bytes: u64) -> f64 {
        bytes as f64 / 1e9
    }
    let full = Plan::new(&LLAMA_8B, &settings(Method::Full));
    let parameters = trained_parameters(&LLAMA_8B, &Method::Full);
    println!("parameters: {parameters}");
    println!("weights in 16 bits: {:.1} GB", gb(2 * parameters));
    println!("Adam in 32 bits: {:.1} GB", gb(full.optimizer));
    println!("Adam in 16 bits: {:.1} GB", gb(full.optimizer / 2));
    // ANCHOR_END: sum

    // ANCHOR: ledger
    let kept = Settings { gradient_checkpointing: false, ..settings(Method::Full) };
    let kept = Plan::new(&LLAMA_8B, &kept);
    let mut ledger = Table::new(["GB", "often said", "computed"]).numeric();
    let weights = full.weights + full.embeddings;
    for (name, said, bytes) in [
        ("weights", "16", weights),
        ("a copy of them in 32 bits", "-", full.adapters),
        ("gradients in 32 bits", "-", full.gradients),
        ("Adam", "32", full.optimizer),
        ("activations", "8", full.activations + full.backward + full.logits),
        ("total", "56", full.total),
    ] {
        ledger.row([name.to_owned(), said.into(), format!("{:.1}", gb(bytes))]);
    }
    table(ledger);
    // ANCHOR_END: ledger

    // ANCHOR: kept
    println!("activations, all kept: {:.1} GB", gb(kept.activations));
    println!("activations, inputs kept: {:.1} GB", gb(full.activations));
    // ANCHOR_END: kept

    // ANCHOR: ways
    fn ways() -> [(&'static str, Method); 4] {
        let adapters = || Adapters::new(16, &Projection::ALL);
        [
            ("full", Method::Full),
            ("LoRA", Method::Lora(adapters())),
            ("QLoRA", Method::Qlora { adapters: adapters(), double_quant: true }),
            ("prompt tuning", Method::PromptTuning { virtual_tokens: 20 }),
        ]
    }
    // ANCHOR_END: ways

    // ANCHOR: eight
    let mut eight = Table::new(["8B", "trained", "share", "weights GB", "total GB"]).numeric();
    for (name, method) in ways() {
        let plan = Plan::new(&LLAMA_8B, &settings(method.clone()));
        let trained = trained_parameters(&LLAMA_8B, &method);
        let share = 100.0 * trained as f64 / parameters as f64;
        let [frozen, total] =
            [plan.weights + plan.embeddings, plan.total].map(|b| format!("{:.1}", gb(b)));
        eight.row([name.into(), trained.to_string(), format!("{share:.3}%"), frozen, total]);
    }
    table(eight);
    // ANCHOR_END: eight

    // ANCHOR: llamas
    const LLAMA_3B: Shape = Shape {
        layers: 28,
        hidden: 3072,
        intermediate: 8192,
        heads: 24,
        tied: true,
        ..LLAMA_8B
    };
    const LLAMA_70B: Shape =
        Shape { layers: 80, hidden: 8192, intermediate: 28_672, heads: 64, ..LLAMA_8B };
    // ANCHOR_END: llamas

    // ANCHOR: sizes
    let mut sizes = Table::new(["total GB", "3B", "8B", "70B"]).numeric();
    for (name, method) in ways() {
        let totals = [LLAMA_3B, LLAMA_8B, LLAMA_70B]
            .map(|shape| gb(Plan::new(&shape, &settings(method.clone())).total));
        sizes.numbers(name, totals, 1);
    }
    table(sizes);
    // ANCHOR_END: sizes

    // ANCHOR: bench
    use ferrotune::experiments;

    let bench = Bench::course("../../lessons/records/arms/peft.json");
    let bench = Bench { steps: 30, ..bench };
    println!("steps: {}", bench.steps);
    println!("{}", bench.config(bench.steps, 0).to_toml());
    // ANCHOR_END: bench

    // ANCHOR: rates
    let rates = experiments::rates(&bench, "")?;
    table(rates.table.clone());
    svg(rates.picture.to_svg());
    // ANCHOR_END: rates

    // ANCHOR: rates-claims
    table(rates.claims());
    // ANCHOR_END: rates-claims

    // ANCHOR: methods timing
    let methods = experiments::methods(&bench, "QLoRA, seed 0")?;
    table(methods.table.clone());
    // ANCHOR_END: methods

    // ANCHOR: methods-figure timing
    svg(methods.picture.to_svg());
    // ANCHOR_END: methods-figure

    // ANCHOR: methods-claims
    let recorded = experiments::methods(&bench, "")?;
    table(recorded.claims());
    // ANCHOR_END: methods-claims

    // ANCHOR: typo raises-exception
    let mut run = bench.config(10, 0);
    run.lora.target_modules = TargetModules::Names(vec!["q_porj".into()]);
    run.output_dir = "../../runs/typo".into();
    prepare(run)?;
    // ANCHOR_END: typo

    // ANCHOR: rank solution
    for rank in [16, 64, 256] {
        let adapters = Adapters::new(rank, &Projection::ALL);
        let method = Method::Qlora { adapters, double_quant: true };
        let plan = Plan::new(&LLAMA_70B, &settings(method));
        let adapters = plan.adapters + plan.gradients + plan.optimizer;
        println!("rank {rank}: {:.1} GB, of it adapters {:.1}", gb(plan.total), gb(adapters));
    }
    // ANCHOR_END: rank

    // ANCHOR: card solution
    for gb_of_card in [8.0, 24.0, 80.0] {
        let fits = |shape: &Shape, method: &Method| {
            gb(Plan::new(shape, &settings(method.clone())).total) < 0.9 * gb_of_card
        };
        let names = |shape: &Shape| -> Vec<&str> {
            ways().iter().filter(|(_, way)| fits(shape, way)).map(|(name, _)| *name).collect()
        };
        println!("{gb_of_card} GB: 3B {:?}, 8B {:?}", names(&LLAMA_3B), names(&LLAMA_8B));
    }
    // ANCHOR_END: card

    Ok(())
}
