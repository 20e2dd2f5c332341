//! `ferrotune plan`

use std::path::{Path, PathBuf};

use ferrotune::candle_core::Device;
use ferrotune::data::{self, Template, TokenizeOptions};
use ferrotune::model::Pretrained;
use ferrotune::train::config::Strategy;
use ferrotune::train::plan::{self, Plan, Settings, Shape, Speed};
use ferrotune::train::{self, RunConfig, SftConfig};
use ferrotune::{Error, device, hub};
use serde::Serialize;

use crate::failure::Failure;
use crate::flags::ConfigFlags;
use crate::progress::Progress;
use crate::{interrupt, opened, output, progress, training, units};

/// Steps of which the memory is measured: the optimizer's is there from the first one on.
const MEASURED: usize = 3;

/// Show the memory and time that a run will need
///
/// It takes what `train` takes. Without data, only the memory is told. With `--measure` the first steps are trained, in a folder that
/// is removed again, and the memory that they took stands beside the plan.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  ferrotune plan --config orders.toml
  ferrotune plan --config orders.toml --measure
  ferrotune plan --model smollm2-135m --per-device-train-batch-size 2 --max-length 512 --json")]
pub(crate) struct Args {
    /// Config file (TOML)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Train a few steps, and measure their memory (on the CPU)
    #[arg(long)]
    measure: bool,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    keys: ConfigFlags,
}

/// What a plan tells.
#[derive(Serialize)]
struct Told {
    model: String,
    device: String,
    trainable_parameters: u64,
    total_parameters: u64,
    /// Bytes, by what they are for.
    memory: Plan,
    /// The most bytes that the first steps took above what the process held before, where it was asked for and the system tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    measured: Option<u64>,
    /// Where data was given.
    time: Option<Time>,
}

#[derive(Serialize)]
struct Time {
    /// Of all epochs.
    tokens: u64,
    steps: usize,
    tokens_per_second: f64,
    seconds: f64,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let config = RunConfig::assemble(args.config.as_deref(), &args.keys.0)?;
    let device = device::choose(device::Wanted::Auto)?.device;
    // First of all: what this process has taken and freed by then would be used again, and be missing in the measure.
    let measured = if args.measure { Some(measure(&config, &device)?) } else { None };
    let pretrained = opened::open(&config.model)?;
    let shape = Shape::from(&pretrained.config);
    let tokens = config.sft.per_device_train_batch_size * config.sft.max_length;
    let settings = Settings::new(&config, &pretrained.config, tokens)?;
    let time = match config.data.as_str() {
        "" => None,
        name => {
            let speed = plan::measured_speed(&shape, &settings, &device)?;
            Some(time(&config, &pretrained, name, &shape, &settings, speed)?)
        }
    };
    let told = Told {
        model: config.model.clone(),
        device: device::describe(&device),
        trainable_parameters: plan::trained_parameters(&shape, &settings.method),
        total_parameters: shape.linear_parameters() + shape.other_parameters(),
        memory: Plan::new(&shape, &settings),
        measured,
        time,
    };
    if args.json { output::json(&told) } else { show(&told, tokens) }
}

/// Trains the first steps of a run, and tells the most memory that they took.
fn measure(config: &RunConfig, device: &Device) -> Result<u64, Failure> {
    if !device.is_cpu() {
        return Err(Failure::Input(
            "`--measure` looks at the memory of the CPU; hide the GPU with `CUDA_VISIBLE_DEVICES=`.".into(),
        ));
    }
    let folder = tempfile::tempdir().map_err(|e| Error::Write {
        path: std::env::temp_dir(),
        hint: "The steps that are measured leave their files there.".into(),
        source: e,
    })?;
    let config = first_steps(config, folder.path());
    config.validate()?;
    interrupt::listen()?;
    let mut watcher = Progress::new(config.sft.logging_steps);
    let watch = device::MemoryWatch::begin();
    let mut session = training::prepare(config, &mut watcher)?;
    train::run(&mut session, &mut watcher)?;
    let unknown = || Failure::Input("this system does not tell the memory of a process; leave `--measure` out.".into());
    watch.peak().ok_or_else(unknown)
}

/// The run cut to its first steps, in a folder of its own.
fn first_steps(config: &RunConfig, folder: &Path) -> RunConfig {
    let sft = SftConfig { max_steps: Some(MEASURED), eval_strategy: Strategy::No, ..config.sft.clone() };
    RunConfig { output_dir: folder.join("run"), eval_data: None, sft, ..config.clone() }
}

/// The steps of a run, and how long they take at `speed` operations a second.
fn time(
    config: &RunConfig,
    pretrained: &Pretrained,
    data: &str,
    shape: &Shape,
    settings: &Settings,
    speed: f64,
) -> Result<Time, Error> {
    let path = hub::resolve_data(data, &mut progress::transfer())?;
    let records = data::load(&path)?;
    let options = TokenizeOptions {
        max_length: config.sft.max_length,
        completion_only_loss: config.sft.completion_only_loss,
        eos_token_id: pretrained.eos_token_id()?,
        bos: pretrained.leading_bos(),
    };
    let template = Template::for_model(config.template.name(), pretrained)?;
    let tokenized = data::tokenize(&records, &template, pretrained.tokenizer()?, &options);
    let tokenized = tokenized.map_err(|e| e.in_file(&path))?;
    let lengths: Vec<usize> = tokenized.examples.iter().map(|example| example.ids.len()).collect();
    let rows = if config.sft.packing { data::pack(&lengths, config.sft.max_length).len() } else { lengths.len() };
    let rows_per_step = config.sft.per_device_train_batch_size * config.sft.gradient_accumulation_steps;
    let steps_per_epoch = rows.div_ceil(rows_per_step);
    let by_epochs = (config.sft.num_train_epochs * steps_per_epoch as f64).ceil() as usize;
    let steps = config.sft.max_steps.unwrap_or(by_epochs).max(1);
    let epoch_tokens: usize = lengths.iter().sum();
    let tokens = (epoch_tokens as f64 * steps as f64 / steps_per_epoch as f64) as u64;
    let mean = (epoch_tokens / lengths.len().max(1)) as u64;
    let seconds = plan::seconds(shape, settings, mean, tokens, Speed::FlopsPerSecond(speed));
    Ok(Time { tokens, steps, tokens_per_second: tokens as f64 / seconds, seconds })
}

fn show(told: &Told, tokens: usize) -> Result<(), Failure> {
    output::line(format!("{} on {}", told.model, told.device))?;
    output::line(format!(
        "trains {} of {} parameters",
        units::count(told.trainable_parameters as usize),
        units::count(told.total_parameters as usize)
    ))?;
    output::line(format!("\nmemory, for micro-batches of up to {} tokens", units::count(tokens)))?;
    for (name, bytes) in told.memory.terms() {
        output::line(format!("  {name:<12}{:>10}", units::bytes(bytes)))?;
    }
    output::line(format!("  {:<12}{:>10}", "total", units::bytes(told.memory.total)))?;
    if let Some(measured) = told.measured {
        let off = 100.0 * (measured as f64 / told.memory.total as f64 - 1.0);
        output::line(format!("  {:<12}{:>10}  ({off:+.0}%)", "measured", units::bytes(measured)))?;
    }
    match &told.time {
        None => output::line("\ntime: not known without `data`"),
        Some(time) => output::line(format!(
            "\ntime: about {} for {} steps and {} tokens, if {:.0} tokens/s are reached, which is what this machine's \
             matrix products allow",
            units::seconds(time.seconds),
            units::count(time.steps),
            units::count(time.tokens as usize),
            time.tokens_per_second
        )),
    }
}
