//! Cells of the lesson `pitfalls`: what goes wrong in fine-tuning, tried on purpose.

use crate::prelude::*;

pub(crate) fn lesson() -> crate::Outcome {
    // ANCHOR: bench
    use ferrotune::experiments;

    let bench = Bench::course("../../lessons/records/arms/pitfalls.json");
    let bench = Bench { answers: 240, ..bench };
    println!("steps: {}", bench.steps);
    println!("seeds: {}", bench.seeds);
    println!("held-out orders: {}", bench.answers);
    // ANCHOR_END: bench

    // ANCHOR: rates tolerance=0.5
    // 2e-5, 2e-4, 1.5e-3, 1e-2, 0.05 and 0.2
    let rates = experiments::learning_rate(&bench, "rate 0.0015, seed 0")?;
    table(rates.table.clone());
    // ANCHOR_END: rates

    // ANCHOR: rates-figure tolerance=0.5
    svg(rates.picture.to_svg());
    // ANCHOR_END: rates-figure

    // ANCHOR: rates-claims
    table(rates.claims());
    // ANCHOR_END: rates-claims

    // ANCHOR: stopped
    for arm in &rates.sweep.arms {
        if let Some(why) = &arm.stopped {
            println!("{}: {why}", arm.name);
        }
    }
    // ANCHOR_END: stopped

    // ANCHOR: quality
    let quality = experiments::data_quality(&bench, "")?;
    table(quality.table.clone());
    // ANCHOR_END: quality

    // ANCHOR: quality-figure
    svg(quality.picture.to_svg());
    // ANCHOR_END: quality-figure

    // ANCHOR: quality-claims
    table(quality.claims());
    // ANCHOR_END: quality-claims

    // ANCHOR: forgetting
    let forgetting = experiments::forgetting(&bench, "")?;
    table(forgetting.table.clone());
    // ANCHOR_END: forgetting

    // ANCHOR: forgetting-figure
    svg(forgetting.picture.to_svg());
    // ANCHOR_END: forgetting-figure

    // ANCHOR: forgetting-claims
    table(forgetting.claims());
    // ANCHOR_END: forgetting-claims

    // ANCHOR: prompt
    let three = Bench { seeds: 3, ..bench.clone() };
    let prompt = experiments::loss_on_prompt(&three, "")?;
    table(prompt.table.clone());
    table(prompt.claims());
    // ANCHOR_END: prompt

    // ANCHOR: template
    let sixty = Bench { answers: 60, ..bench.clone() };
    let template = experiments::wrong_template(&sixty, "")?;
    table(template.table.clone());
    table(template.claims());
    // ANCHOR_END: template

    // ANCHOR: nothing raises-exception
    let lost = Bench { orders: "../../nothing".into(), ..bench.clone() };
    experiments::data_quality(&lost, "")?;
    // ANCHOR_END: nothing

    // ANCHOR: seed solution
    let once = Bench { seeds: 1, ..bench.clone() };
    for report in [experiments::data_quality(&once, "")?, experiments::forgetting(&once, "")?] {
        let open =
            report.verdicts.iter().filter(|claim| claim.verdict.word() == "open").count();
        println!("open: {open} of {}", report.verdicts.len());
        table(report.claims());
    }
    // ANCHOR_END: seed

    // ANCHOR: price solution
    let mut prices = Table::new(["seed 0", "perplexity, times", "loss on the task"]).numeric();
    for arm in forgetting.sweep.arms.iter().filter(|arm| arm.name.ends_with("seed 0")) {
        if let Some([before, after]) = arm.perplexity {
            prices.numbers(arm.name.clone(), [after / before, arm.eval_loss], 2);
        }
    }
    table(prices);
    // ANCHOR_END: price

    Ok(())
}
