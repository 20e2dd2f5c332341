//! Cells of the lesson `publish`: from an adapter to a model that others can use.

use crate::prelude::*;

pub(crate) fn lesson() -> crate::Outcome {
    // ANCHOR: settings
    let settings = SftConfig {
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
    };
    // ANCHOR_END: settings

    // ANCHOR: train timing
    let run = std::path::Path::new("../../runs/publish").to_path_buf();
    std::fs::remove_dir_all(&run).ok(); // what an earlier run of this page left
    let mut session = prepare(RunConfig {
        data: "../../datasets/orders/train.jsonl".into(),
        eval_data: Some("../../datasets/orders/test.jsonl".into()),
        output_dir: run.clone(),
        lora: LoraConfig { lora_dropout: 0.0, ..LoraConfig::default() },
        sft: settings,
        ..RunConfig::default()
    })?;
    let training = train(&mut session)?;
    table(training.table());
    // ANCHOR_END: train

    // ANCHOR: ask written
    let order = "Cho mình 2 ly trà đào ít đá với 1 cà phê sữa";
    println!("{}", answer(&session, order)?);
    // ANCHOR_END: ask

    // ANCHOR: load
    use candle_core::{DType, Device, Tensor};
    use ferrotune::lora::{merge, peft};
    use ferrotune::model::{self, LoadOptions, Quantization};

    let shapes = session.pretrained.config.module_shapes();
    let adapter = peft::load(&run, &shapes, &Device::Cpu)?;
    println!("{} modules, {} numbers", adapter.layers.len(), adapter.parameter_count());
    // ANCHOR_END: load

    // ANCHOR: layer
    let module = "model.layers.14.mlp.up_proj";
    let branch = adapter.layers[module].clone();
    let name = format!("{module}.weight");
    let weight = session.pretrained.weights.tensor(&name, DType::F32, &Device::Cpu)?;
    let merged = merge::merged_rows(&weight, 0, &branch)?; // W + s·B·A
    let x = Tensor::arange(0f32, 576.0, &Device::Cpu)?.sin()?.reshape((1, 576))?;

    let change = (x.matmul(&branch.a.t()?)?.matmul(&branch.b.t()?)? * branch.scale)?;
    let beside = (x.matmul(&weight.t()?)? + change)?;
    let inside = x.matmul(&merged.t()?)?;
    let apart = (&beside - &inside)?.abs()?.max_all()?.to_scalar::<f32>()?;
    println!("{} outputs, further apart than 0.0001: {}", inside.elem_count(), apart > 1e-4);
    // ANCHOR_END: layer

    // ANCHOR: merge within=10
    use ferrotune::model::export::{self, SHARD_BYTES};

    let mut rounding = Table::new(["", "logits differ by", "same next token, %"]).numeric();
    for (name, dtype) in [("f32", DType::F32), ("bf16", DType::BF16), ("f16", DType::F16)] {
        let folder = std::path::PathBuf::from(format!("../../runs/merged-{name}"));
        std::fs::remove_dir_all(&folder).ok();
        let base = &session.pretrained;
        export::write_merged(base, &adapter, dtype, SHARD_BYTES, &folder, |_, _| {})?;
        let found = export::verify_merged(base, &adapter, None, &folder, |_, _| {})?.merged;
        let same = 100.0 * found.same_next as f64 / found.tokens as f64;
        rounding.numbers(name, [found.greatest as f64, same], 4);
    }
    table(rounding);
    // ANCHOR_END: merge

    // ANCHOR: unrounded within=40
    let nf4 = Quantization { quant_type: QuantType::Nf4, double: true };
    let folder = std::path::Path::new("../../runs/merged-bf16").to_path_buf();
    let verified =
        export::verify_merged(&session.pretrained, &adapter, Some(nf4), &folder, |_, _| {})?;
    let trained = verified.trained.ok_or("no format was given")?;
    let mut gap =
        Table::new(["merged model against", "logits differ by", "same next token, %"])
            .numeric();
    for (name, found) in
        [("16 bits and adapter", verified.merged), ("4 bits and adapter", trained)]
    {
        let same = 100.0 * found.same_next as f64 / found.tokens as f64;
        gap.numbers(name, [found.greatest as f64, same], 2);
    }
    table(gap);
    // ANCHOR_END: unrounded

    // ANCHOR: score
    let orders = read("../../datasets/orders/test.jsonl", 20)?;
    let bf16 = LoadOptions::new(Device::Cpu, DType::BF16);
    let mut right = vec![evaluate(&session, &orders)?.scores.exact_match * 20.0];
    let mut loss = vec![session.evaluation_loss(60)?];
    for options in [bf16.clone(), bf16.clone().quantized(nf4)] {
        let merged = model::open(&folder)?;
        session.decoder = model::load(&merged, &options, |_, _| {})?;
        right.push(evaluate(&session, &orders)?.scores.exact_match * 20.0);
        loss.push(session.evaluation_loss(60)?);
    }
    // ANCHOR_END: score

    // ANCHOR: ways within=6
    let ways = ["4 bits and adapter", "merged, 16 bits", "merged, 4 bits again"];
    let mut scores = Table::new(["", "loss", "right, of 20"]).numeric();
    for (i, way) in ways.iter().enumerate() {
        scores.numbers(*way, [loss[i], right[i]], 3);
    }
    table(scores);
    svg(Bars::new("Loss on held-out orders", ways)
        .y("nats a token")
        .bar("loss", loss.clone())
        .to_svg());
    // ANCHOR_END: ways

    // ANCHOR: card
    show::write_merged_card(&run, &folder, Some(&verified))?;
    let card = std::fs::read_to_string(folder.join("README.md"))?;
    println!("{}\n---", card.split("\n---\n").next().unwrap_or_default());
    for heading in card.lines().filter(|line| line.starts_with("## ")) {
        println!("{heading}");
    }
    // ANCHOR_END: card

    // ANCHOR: hub
    std::fs::remove_dir_all("../../runs/hub").ok();
    let practice = LoopbackHub::start("../../runs/hub")?;
    let there = Settings {
        endpoint: practice.url().into(),
        token: Some(practice.token().into()),
        cache: "../../runs/hub/cache".into(),
        ..Settings::from_env()?
    };
    // For the real one: Hub::from_env()?
    let hub = Hub::new(there.clone())?;
    // ANCHOR_END: hub

    // ANCHOR: push
    let mine = Repository::model("me/orders")?;
    let options =
        PushOptions { private: true, pull_request: false, message: "Orders, 120 steps".into() };
    let pushed = hub.push(&folder, &mine, &options, &mut |_| {})?;
    println!("{} files sent, {} were there already", pushed.sent, pushed.same);
    println!("private: {:?}", practice.is_private("models/me/orders"));
    // ANCHOR_END: push

    // ANCHOR: pull
    let pulled = hub.fetch_model(&mine, &mut |_| {})?;
    let mut same = 0;
    for entry in std::fs::read_dir(&pulled)? {
        let name = entry?.file_name();
        same += usize::from(
            std::fs::read(pulled.join(&name))? == std::fs::read(folder.join(&name))?,
        );
    }
    println!("{same} files came back with the same bytes");
    // ANCHOR_END: pull

    // ANCHOR: again
    session.decoder = model::load(&model::open(&folder)?, &bf16, |_, _| {})?;
    let before = answer(&session, order)?;
    session.decoder = model::load(&model::open(&pulled)?, &bf16, |_, _| {})?;
    let after = answer(&session, order)?;
    println!("the same answer: {}", before == after);
    // ANCHOR_END: again

    // ANCHOR: gguf
    use ferrotune::model::export::GgufType;

    let mut files = Table::new(["file", "MB"]).numeric();
    let types = [("f16", GgufType::F16), ("q8_0", GgufType::Q8_0), ("q4_0", GgufType::Q4_0)];
    for (name, kind) in types {
        let file = std::path::PathBuf::from(format!("../../runs/orders-{name}.gguf"));
        export::write_gguf(&model::open(&pulled)?, kind, &file, |_, _| {})?;
        files.numbers(name, [std::fs::metadata(&file)?.len() as f64 / 1e6], 0);
    }
    table(files);
    // ANCHOR_END: gguf

    // ANCHOR: secret raises-exception
    let nobody = Hub::new(Settings { token: None, ..there.clone() })?;
    nobody.push(&folder, &mine, &options, &mut |_| {})?;
    // ANCHOR_END: secret

    // ANCHOR: twice solution
    let second = hub.push(&folder, &mine, &options, &mut |_| {})?;
    println!("{} files sent, {} were there already", second.sent, second.same);
    std::fs::write(
        folder.join("README.md"),
        card.replace("# publish", "# Orders of a coffee shop"),
    )?;
    let third = hub.push(&folder, &mine, &options, &mut |_| {})?;
    println!("{} files sent, {} were there already", third.sent, third.same);
    // ANCHOR_END: twice

    // ANCHOR: small solution within=6
    let small = model::open(std::path::Path::new("../../runs/orders-q4_0.gguf"))?;
    session.decoder = model::load(&small, &bf16, |_, _| {})?;
    println!("{} of 20", evaluate(&session, &orders)?.scores.exact_match * 20.0);
    // ANCHOR_END: small

    Ok(())
}
