//! Cells of the lesson `evaluate`: what a score says, and how sure it is.

use crate::prelude::*;

pub(crate) fn lesson() -> crate::Outcome {
    // ANCHOR: overlap
    use ferrotune::data::{self, Record};
    use std::collections::HashSet;

    /// How many of `test` have a part that one of `training` has, too.
    fn known(training: &[Record], test: &[Record], part: fn(&Record) -> &str) -> usize {
        let seen: HashSet<&str> = training.iter().map(part).collect();
        test.iter().filter(|record| seen.contains(part(record))).count()
    }
    let training = read("../../datasets/orders/train.jsonl", 2100)?;
    let orders = read("../../datasets/orders/test.jsonl", 240)?;
    println!("the same order: {}", known(&training, &orders, |record| &record.input));
    println!("the same answer: {}", known(&training, &orders, |record| &record.output));
    // ANCHOR_END: overlap

    // ANCHOR: random
    let (kept, cut) = (training[..1860].to_vec(), training[1860..].to_vec());
    println!("the same order: {}", known(&kept, &cut, |record| &record.input));
    println!("the same answer: {}", known(&kept, &cut, |record| &record.output));
    // ANCHOR_END: random

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
    use ferrotune::train::{self, Event, Observer, config::Resume};

    fn config() -> RunConfig {
        RunConfig {
            data: "../../datasets/orders/train.jsonl".into(),
            eval_data: Some("../../datasets/orders/test.jsonl".into()),
            output_dir: "../../runs/evaluate".into(),
            resume_from_checkpoint: Some(Resume::Auto),
            lora: LoraConfig { lora_dropout: 0.0, ..LoraConfig::default() },
            sft: sft(),
            ..RunConfig::default()
        }
    }
    // ANCHOR_END: session

    // ANCHOR: stop
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

    // ANCHOR: half
    std::fs::remove_dir_all("../../runs/evaluate").ok(); // what an earlier run of this page left
    let mut session = prepare(config())?;
    if let Err(stopped) = train::run(&mut session, &mut StopAfter(60, false)) {
        println!("{}", stopped.to_string().replace("../../", ""));
    }
    let half_loss = session.evaluation_loss(40)?;
    let half = evaluate(&session, &orders[..80])?;
    // ANCHOR_END: half

    // ANCHOR: whole
    use ferrotune::evaluate::{self, Evaluation, Scored, sign_test, wilson};

    train::run(&mut session, &mut ())?; // goes on from there
    let whole_loss = session.evaluation_loss(40)?;
    let whole = evaluate(&session, &orders)?;
    let first_20 = Evaluation::new(whole.examples[..20].to_vec(), false);
    let first_80 = Evaluation::new(whole.examples[..80].to_vec(), false);
    // ANCHOR_END: whole

    // ANCHOR: three within=15
    use ferrotune::generate::{self, Finish};

    fn measured(name: &str, loss: f64, answers: &Evaluation) -> [String; 5] {
        let stops = answers.examples.iter().filter(|a| a.finish == Finish::Stop).count();
        let stops = stops as f64 / answers.scores.n as f64;
        let rates = [stops, answers.scores.valid_json, answers.scores.exact_match];
        let [stops, valid, exact] = rates.map(|rate| format!("{:.0}%", 100.0 * rate));
        [name.to_owned(), format!("{loss:.3}"), stops, valid, exact]
    }
    let mut three =
        Table::new(["after", "loss", "stops", "valid JSON", "exact match"]).numeric();
    three.row(measured("60 steps", half_loss, &half));
    three.row(measured("120 steps", whole_loss, &first_80));
    table(three);
    // ANCHOR_END: three

    // ANCHOR: spread within=15
    let mut tokens = 0;
    for order in &orders[..40] {
        let tokenizer = session.pretrained.tokenizer()?;
        tokens += generate::encode(tokenizer, &order.output, false)?.len();
    }
    let length = tokens as f64 / 40.0;
    println!("tokens of an answer: {length:.0}");
    println!("chance of a token: {:.0}%", 100.0 * (-whole_loss).exp());
    println!("chance of an answer: {:.0}%", 100.0 * (-whole_loss * length).exp());
    // ANCHOR_END: spread

    // ANCHOR: width
    let mut width = Table::new(["orders", "right", "low", "high", "width"]).numeric();
    for n in [20, 80, 320, 1280] {
        let (low, high) = wilson(n / 2, n);
        let [low, high, wide] = [low, high, high - low].map(|r| format!("{:.1}", 100.0 * r));
        width.row([n.to_string(), (n / 2).to_string(), low, high, wide]);
    }
    table(width);
    // ANCHOR_END: width

    // ANCHOR: intervals within=25
    table(intervals(&[("first 20", &first_20), ("first 80", &first_80), ("all", &whole)]));
    // ANCHOR_END: intervals

    // ANCHOR: ends within=25
    fn right(answers: &[Scored]) -> usize {
        answers.iter().filter(|answer| answer.exact_match).count()
    }
    let mut groups = Vec::new();
    for group in whole.examples.chunks(20) {
        groups.push((20.0, 5.0 * right(group) as f64));
    }
    let (mut low, mut high) = (Vec::new(), Vec::new());
    for n in [10.0_f64, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0, 1280.0] {
        let (l, h) = wilson((whole.scores.exact_match * n).round() as usize, n as usize);
        low.push((n, 100.0 * l));
        high.push((n, 100.0 * h));
    }
    // ANCHOR_END: ends

    // ANCHOR: figure within=25
    let rates: Vec<f64> = groups.iter().map(|group| group.1).collect();
    println!("lowest of the groups: {:.0}%", rates.iter().copied().fold(100.0, f64::min));
    println!("highest of the groups: {:.0}%", rates.iter().copied().fold(0.0, f64::max));
    let chart = Chart::new("The interval of one rate, by the number of orders").log_x();
    let chart = chart.x("orders").y("exact match (%)").line("high", high.clone());
    svg(chart.line("low", low.clone()).dots("twelve groups of 20", groups.clone()));
    // ANCHOR_END: figure

    // ANCHOR: phrasings within=25
    use ferrotune::data::orders::Split;

    let mut familiar = data::orders::generate(7, Split::Train, 150);
    familiar.retain(|new| training.iter().all(|old| old.input != new.input));
    familiar.truncate(60);
    println!("the same order: {}", known(&training, &familiar, |record| &record.input));
    println!("the same answer: {}", known(&training, &familiar, |record| &record.output));
    let on_familiar = evaluate(&session, &familiar)?;
    table(intervals(&[("as in training", &on_familiar), ("held out", &whole)]));
    // ANCHOR_END: phrasings

    // ANCHOR: apart within=25
    table(intervals(&[("60 steps", &half), ("120 steps", &first_80)]));
    // ANCHOR_END: apart

    // ANCHOR: pairs within=20
    let mut pairs = [[0; 2]; 2];
    for (a, b) in half.examples.iter().zip(&first_80.examples) {
        pairs[usize::from(a.exact_match)][usize::from(b.exact_match)] += 1;
    }
    println!("right both times: {}", pairs[1][1]);
    println!("wrong both times: {}", pairs[0][0]);
    println!("right after 60 steps only: {}", pairs[1][0]);
    println!("right after 120 steps only: {}", pairs[0][1]);
    println!("p of the sign test: {:.4}", sign_test(pairs[1][0], pairs[0][1]));
    // ANCHOR_END: pairs

    // ANCHOR: kinds
    use serde_json::Value;

    fn column(order: &Value, key: &str) -> Vec<Value> {
        let items = order["items"].as_array().into_iter().flatten();
        items.map(|item| item[key].clone()).collect()
    }
    // ANCHOR_END: kinds

    // ANCHOR: wrong
    const KINDS: [&str; 5] = ["no JSON", "drink", "quantity", "option", "the rest"];

    /// The first of `KINDS` in which an answer differs from the expected one.
    fn wrong(scored: &Scored) -> &'static str {
        let [expected, answer] = [&scored.expected, &scored.answer]
            .map(|text| serde_json::from_str(text).unwrap_or(Value::Null));
        let differ = |key: &str| column(&expected, key) != column(&answer, key);
        let items = expected["items"] != answer["items"];
        let differences = [answer.is_null(), differ("name"), differ("quantity"), items];
        KINDS[differences.iter().position(|differs| *differs).unwrap_or(4)]
    }
    // ANCHOR_END: wrong

    // ANCHOR: failures within=60
    let mut failures = Table::new(["wrong", "answers", "of the failures"]).numeric();
    let all = whole.failures().count();
    for kind in KINDS {
        let n = whole.failures().filter(|scored| wrong(scored) == kind).count();
        let share = 100.0 * n as f64 / all.max(1) as f64;
        failures.row([kind.to_owned(), n.to_string(), format!("{share:.0}%")]);
    }
    table(failures);
    // ANCHOR_END: failures

    // ANCHOR: read written
    let mut samples = Table::new(["wrong", "order", "answer"]);
    for kind in KINDS {
        for scored in whole.failures().filter(|scored| wrong(scored) == kind).take(2) {
            samples.row([kind, &orders[scored.index].input, &scored.answer]);
        }
    }
    table(samples);
    // ANCHOR_END: read

    // ANCHOR: shifted raises-exception
    let mut prompts = Vec::new();
    for order in &orders {
        let prompt = session.template.prompt(order)?;
        prompts.push(generate::encode(session.pretrained.tokenizer()?, &prompt, false)?);
    }
    let expected: Vec<String> = orders[1..].iter().map(|order| order.output.clone()).collect();
    evaluate::evaluate(
        &session.decoder,
        session.pretrained.tokenizer()?,
        &prompts,
        &expected,
        &evaluate::greedy(&session.pretrained, 80, 50),
        &mut |_, _| {},
        &|| false,
    )?;
    // ANCHOR_END: shifted

    // ANCHOR: lenient solution within=60
    let mut lenient = 0;
    for scored in &whole.examples {
        let answer = serde_json::from_str::<Value>(&scored.answer).ok();
        lenient += usize::from(answer == serde_json::from_str::<Value>(&scored.expected).ok());
    }
    println!("the same text: {}", right(&whole.examples));
    println!("the same JSON: {lenient}");
    // ANCHOR_END: lenient

    // ANCHOR: enough solution
    for points in [10.0, 4.0, 1.0] {
        let narrow = |n: &usize| {
            let (low, high) = wilson((0.9 * *n as f64).round() as usize, *n);
            high - low < points / 100.0
        };
        println!("less than {points} points wide: {}", (1..).find(narrow).unwrap_or(0));
    }
    // ANCHOR_END: enough

    Ok(())
}
