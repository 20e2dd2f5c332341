//! Cells of the lesson `alpaca`: from three fields to tokens.

use crate::prelude::*;

pub(crate) fn lesson() -> crate::Outcome {
    // ANCHOR: records
    let records = read("../../datasets/alpaca-vi/train.jsonl", 400)?;
    let with_input = records.iter().filter(|record| !record.input.is_empty()).count();
    println!("examples: {}", records.len());
    println!("with an input: {with_input}");
    println!("{:#?}", records[26]);
    println!("{:#?}", records[3]);
    // ANCHOR_END: records

    // ANCHOR: texts
    use ferrotune::data::{self, Template};

    let template = Template::named("alpaca", None)?;
    for record in [&records[26], &records[3]] {
        let text = template.text(record)?;
        println!("{}{}\n{}", text.prompt, text.completion, "─".repeat(40));
    }
    // ANCHOR_END: texts

    // ANCHOR: chat
    let model = load("smollm2-135m", None)?;
    let chat = Template::for_model("chat", &model.pretrained)?.text(&records[3])?;
    println!("{}{}", chat.prompt, chat.completion);
    // ANCHOR_END: chat

    // ANCHOR: coloured
    let examples = model.tokenize(&records)?;
    let mut page = String::from("<p style=\"line-height: 2\">");
    for (i, (id, trained)) in examples[3].ids.iter().zip(&examples[3].trained).enumerate() {
        let token = model.pretrained.tokenizer()?.decode(&examples[3].ids[i..=i], false);
        let token = token.unwrap_or_default();
        let token = token.replace('<', "&lt;").replace('\n', "↵").replace('\u{fffd}', "·");
        let style =
            if *trained { "background: #ffd08a; color: #222; font-weight: bold" } else { "" };
        page += &format!(
            "<span title=\"{id}\" style=\"border: 1px solid #999; {style}\">{token}</span> "
        );
    }
    html(page + "</p>");
    // ANCHOR_END: coloured

    // ANCHOR: marks
    let all: usize = examples.iter().map(|e| e.ids.len()).sum();
    let trained: usize =
        examples.iter().map(|e| e.trained.iter().filter(|t| **t).count()).sum();
    let end = model.pretrained.eos_token_id()?;
    fn ends(example: &data::Example, end: u32) -> bool {
        example.ids.ends_with(&[end]) && example.trained.ends_with(&[true])
    }
    let ended = examples.iter().filter(|example| ends(example, end)).count();
    println!("tokens: {all}");
    println!("trained: {trained}");
    println!("share: {:.0}%", 100.0 * trained as f64 / all as f64);
    println!("examples whose end of sequence is trained: {ended}");
    // ANCHOR_END: marks

    // ANCHOR: syllables
    let mut pairs = records.clone();
    pairs.retain(|record| record.instruction == "Dịch sang tiếng Việt.");
    let (english, vietnamese): (Vec<String>, Vec<String>) =
        pairs.into_iter().map(|record| (record.input, record.output)).unzip();
    let mut cost =
        Table::new(["the same sentences", "words", "tokens", "tokens a word"]).numeric();
    for (language, texts) in [("in English", english), ("in Vietnamese", vietnamese)] {
        let text = texts.join(" ");
        let (words, tokens) = (text.split_whitespace().count(), model.count(&text)?);
        let each = format!("{:.2}", tokens as f64 / words as f64);
        cost.row([language.to_owned(), words.to_string(), tokens.to_string(), each]);
    }
    table(cost);
    // ANCHOR_END: syllables

    // ANCHOR: settings
    fn settings(data: &str, folder: &str, max_steps: usize) -> RunConfig {
        let lora = LoraConfig { lora_dropout: 0.0, ..LoraConfig::default() };
        let data = data.into();
        let eval_data = Some("../../datasets/orders/test.jsonl".into());
        let output_dir = format!("../../runs/alpaca-{folder}").into();
        let mut config =
            RunConfig { data, eval_data, output_dir, lora, ..RunConfig::default() };
        config.sft.max_steps = Some(max_steps);
        config.sft.per_device_train_batch_size = 1;
        config.sft.gradient_accumulation_steps = 1;
        (config.sft.learning_rate, config.sft.max_grad_norm) = (1.5e-3, 1.0);
        (config.sft.max_length, config.sft.completion_only_loss) = (256, true);
        (config.sft.gradient_checkpointing, config.sft.eval_strategy) = (false, Strategy::No);
        config
    }
    // ANCHOR_END: settings

    // ANCHOR: stop
    use ferrotune::generate::Finish;

    fn stops(
        config: RunConfig,
        end: bool,
        orders: &[data::Record],
    ) -> ferrotune::Result<usize> {
        std::fs::remove_dir_all(&config.output_dir).ok();
        let mut session = prepare(config)?;
        session
            .edit_examples(|e| e.trained.last_mut().into_iter().for_each(|last| *last = end));
        ferrotune::train::run(&mut session, &mut ())?;
        let answers = evaluate(&session, orders)?.examples;
        Ok(answers.iter().filter(|answer| answer.finish == Finish::Stop).count())
    }
    // ANCHOR_END: stop

    // ANCHOR: forgotten within=5
    let train = "../../datasets/orders/train.jsonl";
    let orders = read("../../datasets/orders/test.jsonl", 60)?;
    let trained = stops(settings(train, "end", 40), true, &orders[..20])?;
    let forgotten = stops(settings(train, "no-end", 40), false, &orders[..20])?;
    println!("answers that stop, the end trained: {trained} of 20");
    println!("answers that stop, the end forgotten: {forgotten} of 20");
    // ANCHOR_END: forgotten

    // ANCHOR: lengths
    let lengths: Vec<usize> = examples.iter().map(|e| e.ids.len()).collect();
    let padded: usize =
        lengths.chunks(8).map(|batch| batch.len() * batch.iter().max().unwrap_or(&0)).sum();
    let rows = data::pack(&lengths, 512);
    println!("longest example: {} tokens", lengths.iter().max().unwrap_or(&0));
    println!("useful when padded: {:.0}%", 100.0 * all as f64 / padded as f64);
    println!("useful when packed: {:.0}%", 100.0 * all as f64 / (512 * rows.len()) as f64);
    // ANCHOR_END: lengths

    // ANCHOR: histogram
    let bins: Vec<f64> =
        (0..12).map(|b| lengths.iter().filter(|l| **l / 20 == b).count() as f64).collect();
    let names: Vec<String> = (0..12).map(|b| format!("{}", 20 * b)).collect();
    svg(Bars::new("Examples by their length in tokens", names)
        .y("examples")
        .bar("from this length on", bins));
    // ANCHOR_END: histogram

    // ANCHOR: packed tolerance=0.001
    let few = examples[..8].to_vec();
    let alone: Vec<f64> =
        few.iter().map(|e| model.loss(std::slice::from_ref(e))).collect::<Result<_, _>>()?;
    let counts: Vec<f64> =
        few.iter().map(|e| e.trained.iter().filter(|t| **t).count() as f64).collect();
    let mean =
        alone.iter().zip(&counts).map(|(l, n)| l * n).sum::<f64>() / counts.iter().sum::<f64>();
    let ids = few.iter().flat_map(|e| e.ids.clone()).collect();
    let trained = few.iter().flat_map(|e| e.trained.clone()).collect();
    println!("each by itself:    {mean:.4}");
    println!("packed:            {:.4}", model.loss(&few)?);
    println!("without borders:   {:.4}", model.loss(&[data::Example { ids, trained }])?);
    // ANCHOR_END: packed
    // ANCHOR: amounts
    let lines = std::fs::read_to_string(train)?;
    let mut arms = Vec::new();
    for n in [50, 100, 300, 1000] {
        let file = format!("../../runs/orders-{n}.jsonl");
        std::fs::write(&file, lines.lines().take(n).collect::<Vec<_>>().join("\n"))?;
        arms.push((format!("{n} examples"), settings(&file, "amount", 300)));
    }
    let record = "../../lessons/records/arms/alpaca.json";
    let amounts = sweep_scored(record, "", arms, &orders)?;
    // ANCHOR_END: amounts

    // ANCHOR: amounts-figure
    let mut curve = Table::new(["distinct", "held-out loss", "exactly right"]).numeric();
    let mut points = Vec::new();
    for (n, arm) in [50.0, 100.0, 300.0, 1000.0].into_iter().zip(&amounts.arms) {
        let right = 100.0 * arm.exact_match.unwrap_or(0.0);
        curve.row([arm.name.clone(), format!("{:.3}", arm.eval_loss), format!("{right:.0}%")]);
        points.push((n, right));
    }
    table(curve);
    let chart = Chart::new("Right answers by the number of distinct examples, at equal steps");
    let chart = chart.log_x().x("distinct examples").y("exactly right (%)");
    svg(chart.dotted("300 steps each", points));
    // ANCHOR_END: amounts-figure

    // ANCHOR: short raises-exception
    let mut too_short = settings(train, "short", 1);
    too_short.sft.max_length = 16;
    prepare(too_short)?;
    // ANCHOR_END: short

    // ANCHOR: kinds solution
    let longest = |word: &str| {
        let of = records.iter().zip(&lengths).filter(|(r, _)| r.instruction.starts_with(word));
        of.map(|(_, length)| *length).max().unwrap_or(0)
    };
    for word in ["Dịch", "Viết email", "Sửa lỗi", "Lập"] {
        println!("{word}: longest {} tokens", longest(word));
    }
    // ANCHOR_END: kinds

    // ANCHOR: templates solution
    let chat = Template::for_model("chat", &model.pretrained)?;
    let mut tokens = [0, 0];
    for record in &records {
        tokens[0] += model.count(&template.prompt(record)?)?;
        tokens[1] += model.count(&chat.prompt(record)?)?;
    }
    println!("prompts in Alpaca's form: {} tokens", tokens[0]);
    println!("prompts in chat form: {} tokens", tokens[1]);
    // ANCHOR_END: templates

    Ok(())
}
