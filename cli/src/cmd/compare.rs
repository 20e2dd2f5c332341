//! `ferrotune compare`

use std::fs;
use std::path::{Path, PathBuf};

use ferrotune::data::orders::Split;
use ferrotune::decide::arms::{self, Comparison};
use ferrotune::decide::{Arm, Assumptions, Cost, Measured, Menu, Rates, task};
use ferrotune::show::{self, Table};
use ferrotune::train::RunConfig;
use ferrotune::{device, files, hub};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::failure::Failure;
use crate::progress::{self, Progress};
use crate::{interrupt, output};

/// Try a prompt, retrieval and fine-tuning on one task, and measure each
///
/// The task is a coffee shop's: an order becomes JSON with the price of each drink. Five approaches answer held-out orders, once
/// while the menu holds and once after its prices have changed. The result is a table, a chart, what a query costs by the length of
/// its prompt, and the number of queries from which on one approach costs less than another. What the costs assume is told, and can
/// be changed.
///
/// Most of the time goes into two trainings. It can be interrupted: what is finished is kept.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  ferrotune compare
  ferrotune compare --examples 300 --orders 40 --out runs/compare-300
  ferrotune compare --machine-hour 0.5 --person-hour 60 --json")]
pub(crate) struct Args {
    /// Model to try, which must have a chat template
    #[arg(long, value_name = "M", default_value = "smollm2-135m")]
    model: String,

    /// Folder with menu.jsonl and menu-new.jsonl, the menu before and after
    #[arg(long, value_name = "DIR", default_value = "datasets/menu")]
    menu: PathBuf,

    /// Orders to train on
    #[arg(long, value_name = "N", default_value = "1000", value_parser = clap::value_parser!(u32).range(8..))]
    examples: u32,

    /// Held-out orders to answer
    #[arg(long, value_name = "N", default_value = "60", value_parser = clap::value_parser!(u32).range(1..))]
    orders: u32,

    /// Folder for the trainings, report.json, table.md and chart.svg
    #[arg(long, value_name = "DIR", default_value = "runs/compare")]
    out: PathBuf,

    /// Assumed: an hour of the machine, in US dollars
    #[arg(long, value_name = "USD", default_value_t = Assumptions::default().machine_hour)]
    machine_hour: f64,

    /// Assumed: an hour of work, in US dollars
    #[arg(long, value_name = "USD", default_value_t = Assumptions::default().person_hour)]
    person_hour: f64,

    /// Assumed: hours to write a prompt
    #[arg(long, value_name = "H", default_value_t = Assumptions::default().prompt_hours)]
    prompt_hours: f64,

    /// Assumed: hours to build the search
    #[arg(long, value_name = "H", default_value_t = Assumptions::default().retrieval_hours)]
    retrieval_hours: f64,

    /// Assumed: hours to gather examples
    #[arg(long, value_name = "H", default_value_t = Assumptions::default().examples_hours)]
    examples_hours: f64,

    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// Tokens of an answer for which a query's cost is told: a priced order has about as many.
const ANSWER_TOKENS: usize = 40;

/// What an arm's result is of; with another setting it is measured anew.
#[derive(PartialEq, Serialize, Deserialize)]
struct Settings {
    model: String,
    before: String,
    after: String,
    examples: u32,
    orders: u32,
}

#[derive(Serialize, Deserialize)]
struct Report {
    settings: Settings,
    arms: Vec<Measured>,
    /// How fast the base model reads and writes here.
    #[serde(default)]
    rates: Option<Rates>,
}

impl Report {
    /// The report in `out`, if it has these settings; else an empty one.
    fn load(out: &Path, settings: Settings) -> Self {
        let old = fs::read(out.join("report.json")).ok().and_then(|text| serde_json::from_slice::<Self>(&text).ok());
        old.filter(|old| old.settings == settings).unwrap_or(Self { settings, arms: Vec::new(), rates: None })
    }

    fn save(&self, out: &Path) -> Result<(), Failure> {
        files::create_directory(out)?;
        let text = serde_json::to_string_pretty(self).unwrap_or_default() + "\n";
        Ok(files::write_atomic(&out.join("report.json"), text.as_bytes())?)
    }
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let assumptions = Assumptions {
        machine_hour: args.machine_hour,
        person_hour: args.person_hour,
        prompt_hours: args.prompt_hours,
        retrieval_hours: args.retrieval_hours,
        examples_hours: args.examples_hours,
    };
    let (before, after) = (args.menu.join("menu.jsonl"), args.menu.join("menu-new.jsonl"));
    let menus = [Menu::load(&before)?, Menu::load(&after)?];
    let text = |path: &Path| fs::read_to_string(path).unwrap_or_default();
    let settings = Settings {
        model: args.model.clone(),
        before: text(&before),
        after: text(&after),
        examples: args.examples,
        orders: args.orders,
    };
    let mut report = Report::load(&args.out, settings);
    interrupt::listen()?;
    let model = hub::resolve_with(&args.model, &mut progress::transfer())?;
    let [before, after] = menus;
    let config = RunConfig { model: args.model.clone(), output_dir: args.out.clone(), ..arms::training() };
    let comparison = Comparison {
        model: &model,
        base_model: hub::base_model(&args.model),
        before,
        after,
        train: task::cases(Split::Train, args.examples as usize),
        test: task::cases(Split::Test, args.orders as usize),
        device: device::choose(device::Wanted::Auto)?.device,
        config,
    };
    for arm in Arm::ALL {
        if report.arms.iter().any(|measured| measured.arm == arm) {
            output::status(format!("{}: measured before", arm.name()));
            continue;
        }
        output::status(format!("{}:", arm.name()));
        let mut watcher = Progress::new(comparison.config.sft.logging_steps);
        let bar = progress::bar(0, "answers");
        let mut answered = |done: usize, all: usize| {
            bar.set_length(all as u64);
            bar.set_position(done as u64);
        };
        let measured = comparison.run(arm, &mut watcher, &mut answered);
        bar.finish_and_clear();
        report.arms.push(measured?);
        report.save(&args.out)?;
    }
    let rates = match report.rates {
        Some(rates) => rates,
        None => {
            let rates = device::on_pool(|| Rates::measure(&model, &comparison.device))?;
            report.rates = Some(rates);
            report.save(&args.out)?;
            rates
        }
    };
    let tables = [
        show::comparison(&report.arms),
        show::costs(&report.arms, &assumptions),
        show::cost_by_prompt(&rates, ANSWER_TOKENS, &assumptions),
        assumed(&assumptions),
    ];
    let chart = show::comparison_chart(&report.arms).to_svg();
    files::write_atomic(&args.out.join("chart.svg"), chart.as_bytes())?;
    let break_evens = show::break_evens(&report.arms, &assumptions);
    let markdown = tables.iter().map(Table::to_markdown).chain([break_evens.join("\n\n")]);
    let page = markdown.collect::<Vec<_>>().join("\n");
    files::write_atomic(&args.out.join("table.md"), page.as_bytes())?;
    if args.json {
        let cost = |m: &Measured| Cost::new(&m.workload(&assumptions), &assumptions);
        let costs: Vec<_> = report.arms.iter().map(|m| json!({"arm": m.arm, "cost": cost(m)})).collect();
        return output::json(&json!({
            "arms": report.arms, "costs": costs, "rates": rates, "assumptions": assumptions, "break_even": break_evens,
        }));
    }
    for table in tables {
        output::line(table.to_text())?;
    }
    for sentence in break_evens {
        output::line(sentence)?;
    }
    output::line(format!("\nThe chart is `{}`.", args.out.join("chart.svg").display()))
}

fn assumed(assumptions: &Assumptions) -> Table {
    let mut table = Table::new(["assumed", ""]).right(1);
    let Assumptions { machine_hour, person_hour, prompt_hours, retrieval_hours, examples_hours } = assumptions;
    table.row(["an hour of the machine".to_owned(), format!("{machine_hour} $")]);
    table.row(["an hour of work".to_owned(), format!("{person_hour} $")]);
    table.row(["to write a prompt".to_owned(), format!("{prompt_hours} h")]);
    table.row(["to build the search".to_owned(), format!("{retrieval_hours} h")]);
    table.row(["to gather examples".to_owned(), format!("{examples_hours} h")]);
    table
}
