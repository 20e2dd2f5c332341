//! Cells of the lesson `decision`: prompt, retrieve, or fine-tune, on one task.

use crate::prelude::*;

pub(crate) fn lesson() -> crate::Outcome {
    // ANCHOR: advise
    use ferrotune::decide::tree;

    let shop = [("knowledge", true), ("form-with-facts", false), ("examples-with-facts", true)];
    let advice = tree::advise(&shop)?;
    println!("{}. {}", advice.text.en, advice.why.en);
    // ANCHOR_END: advise

    // ANCHOR: task
    use ferrotune::data::orders::Split;
    use ferrotune::decide::task;

    let shop = Task::new(1000, 60)?;
    let case = task::cases(Split::Test, 60).swap_remove(7);
    println!("{}", case.said);
    println!("{}", task::answer(&case.order, &shop.before));
    println!("{}", task::answer(&case.order, &shop.after));
    // ANCHOR_END: task

    // ANCHOR: prompt
    println!("{}", task::PROMPT);
    // ANCHOR_END: prompt

    // ANCHOR: found
    use ferrotune::decide::Retriever;

    let search = Retriever::new(shop.after.clone());
    for query in ["2 ly trà đào ít đá", "2 ly tra dao it da", "2 ly cf sữa", "alo quán ơi"]
    {
        let found = search.search(query, 3);
        let rows: Vec<String> = found.iter().map(|row| row.name.clone()).collect();
        println!("{query:<20} {}", rows.join(", "));
    }
    // ANCHOR_END: found

    // ANCHOR: recall
    let mut lacking = 0;
    for case in task::cases(Split::Test, 240) {
        let found = search.search(&case.said, task::FOUND);
        let is_found = |name: &str| found.iter().any(|row| row.name == name);
        lacking += usize::from(!case.order.items.iter().all(|line| is_found(&line.name)));
    }
    println!("{lacking} of 240 orders lack a row that they need");
    // ANCHOR_END: recall

    // ANCHOR: try
    let record = "../../lessons/records/arms/decision.json";
    let measured = approaches(record, &[Arm::FewShot], &shop)?;
    // ANCHOR_END: try

    // ANCHOR: scores within=12
    table(show::comparison(&measured));
    // ANCHOR_END: scores

    // ANCHOR: chart within=12
    svg(show::comparison_chart(&measured).to_svg());
    // ANCHOR_END: chart

    // ANCHOR: costs
    let recorded = approaches(record, &[], &shop)?;
    let assumed = Assumptions::default();
    println!("{assumed:#?}");
    table(show::costs(&recorded, &assumed));
    // ANCHOR_END: costs

    // ANCHOR: even
    for sentence in show::break_evens(&recorded, &assumed) {
        println!("{sentence}");
    }
    // ANCHOR_END: even

    // ANCHOR: free
    let free = Assumptions { person_hour: 0.0, ..assumed };
    for sentence in show::break_evens(&recorded, &free) {
        println!("{sentence}");
    }
    // ANCHOR_END: free

    // ANCHOR: length timing
    let rates = ferrotune::experiments::query_rates("smollm2-135m")?;
    println!("{rates:#.0?}");
    table(show::cost_by_prompt(&rates, 40, &assumed));
    // ANCHOR_END: length

    // ANCHOR: priceless raises-exception
    use ferrotune::decide::Menu;

    let broken = std::path::Path::new("../../runs/menu.jsonl");
    std::fs::create_dir_all("../../runs")?;
    std::fs::write(broken, "{\"name\":\"trà đào\",\"price\":38000}\n{\"name\":\"cacao\"}\n")?;
    Menu::load(broken)?;
    // ANCHOR_END: priceless

    // ANCHOR: words solution
    let mut lacking = 0;
    for case in task::cases(Split::Test, 240) {
        let said = case.said.replace("cf", "cà phê").replace("yaourt", "sữa chua");
        let found = search.search(&said.replace("cam vắt", "nước cam"), task::FOUND);
        let is_found = |name: &str| found.iter().any(|row| row.name == name);
        lacking += usize::from(!case.order.items.iter().all(|line| is_found(&line.name)));
    }
    println!("{lacking} of 240 orders lack a row that they need");
    // ANCHOR_END: words

    // ANCHOR: open solution
    match tree::advise(&[("knowledge", false)]) {
        Ok(advice) => println!("{}", advice.text.en),
        Err(error) => println!("{error}"),
    }
    // ANCHOR_END: open

    Ok(())
}
