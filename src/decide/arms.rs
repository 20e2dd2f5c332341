//! The approaches, tried on one task.

use std::path::Path;
use std::time::Instant;

use candle_core::{DType, Device};
use serde::{Deserialize, Serialize};

use super::cost::{Assumptions, Workload};
use super::menu::{Menu, Retriever};
use super::task::{self, Case};
use crate::data::{CHAT, Record, Template};
use crate::evaluate::{self, Scored};
use crate::generate::GenerationConfig;
use crate::lora::LoraConfig;
use crate::model::{self, Decoder, LoadOptions, Pretrained, Quantization};
use crate::quant::QuantType;
use crate::train::config::Strategy;
use crate::train::{self, Inputs, Observer, RunConfig, Session, SftConfig};
use crate::{Error, Result, files};

/// Answers that are timed one by one.
const TIMED: usize = 5;
/// Examples in a prompt.
const SHOTS: usize = 4;
/// How often the arm that learns prices by heart sees what the arm that reads them sees once: facts take longer than a form.
const BY_HEART: f64 = 3.0;

/// An approach as it is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Arm {
    /// The form in words.
    ZeroShot,
    /// The form in words, and examples.
    FewShot,
    /// Examples, and rows found for the order.
    Retrieval,
    /// Trained on orders and the prices of the old menu.
    FineTuning,
    /// Trained to read the price from rows found for the order.
    FineTuningAndRetrieval,
}

impl Arm {
    pub const ALL: [Self; 5] =
        [Self::ZeroShot, Self::FewShot, Self::Retrieval, Self::FineTuning, Self::FineTuningAndRetrieval];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::ZeroShot => "zero-shot",
            Self::FewShot => "few-shot",
            Self::Retrieval => "RAG",
            Self::FineTuning => "fine-tuned",
            Self::FineTuningAndRetrieval => "fine-tuned + RAG",
        }
    }

    fn trains(self) -> bool {
        matches!(self, Self::FineTuning | Self::FineTuningAndRetrieval)
    }

    fn retrieves(self) -> bool {
        matches!(self, Self::Retrieval | Self::FineTuningAndRetrieval)
    }

    fn shots(self) -> usize {
        match self {
            Self::FewShot | Self::Retrieval => SHOTS,
            _ => 0,
        }
    }
}

/// How right the answers are while one menu holds; rates from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    pub exact_match: f64,
    pub valid_json: f64,
    /// See [`task::right_prices`].
    pub right_price: f64,
}

/// What an arm came to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    pub arm: Arm,
    /// While the old menu holds, and after it was replaced.
    pub before: Scores,
    pub after: Scores,
    /// Orders that were asked.
    pub orders: usize,
    /// Examples that were trained on, or stand in the prompt.
    pub examples: usize,
    /// Tokens of a prompt, on average.
    pub prompt_tokens: f64,
    /// Seconds from an order to its answer, on average, one at a time.
    pub latency_seconds: f64,
    /// Seconds of the machine before the first order: the index, the training.
    pub setup_seconds: f64,
}

impl Measured {
    /// What the arm asks of machine and people, the latter as `assumptions` has it.
    pub fn workload(&self, assumptions: &Assumptions) -> Workload {
        let hours = |does: bool, hours: f64| if does { hours } else { 0.0 };
        Workload {
            setup_seconds: self.setup_seconds,
            setup_hours: hours(!self.arm.trains(), assumptions.prompt_hours)
                + hours(self.arm.retrieves(), assumptions.retrieval_hours)
                + hours(self.arm.trains(), assumptions.examples_hours),
            latency_seconds: self.latency_seconds,
        }
    }
}

/// How arms train by default: one pass, quickly, on the answers alone.
pub fn training() -> RunConfig {
    RunConfig {
        lora: LoraConfig { lora_dropout: 0.0, ..LoraConfig::default() },
        sft: SftConfig {
            num_train_epochs: 1.0,
            per_device_train_batch_size: 1,
            gradient_accumulation_steps: 1,
            learning_rate: 1.5e-3,
            adam_beta2: 0.99,
            max_grad_norm: 1.0,
            max_length: 320,
            completion_only_loss: true,
            gradient_checkpointing: false,
            eval_strategy: Strategy::No,
            ..SftConfig::default()
        },
        ..RunConfig::default()
    }
}

/// Arms that are tried on the same orders.
pub struct Comparison<'a> {
    /// The base model's files, and its name.
    pub model: &'a Path,
    pub base_model: &'a str,
    pub before: Menu,
    pub after: Menu,
    /// Orders to train on, and to show.
    pub train: Vec<Case>,
    /// Held-out orders.
    pub test: Vec<Case>,
    /// How arms train; `data` and `output_dir` are set here, below its `output_dir`.
    pub config: RunConfig,
    pub device: Device,
}

/// The model as it is, in 4 bits.
///
/// Errors: those of [`model::open`] and [`model::load`].
pub(super) fn load_base(model: &Path, device: &Device) -> Result<(Pretrained, Decoder)> {
    let pretrained = model::open(model)?;
    let nf4 = Quantization { quant_type: QuantType::Nf4, double: true };
    let options = LoadOptions::new(device.clone(), DType::BF16).quantized(nf4);
    let decoder = model::load(&pretrained, &options, |_, _| {})?;
    Ok((pretrained, decoder))
}

/// A model that answers, and the text that it is asked with.
struct Answering {
    pretrained: Pretrained,
    decoder: Decoder,
    template: Template,
}

impl Comparison<'_> {
    /// How an arm trains: by `config`, and three times as long where prices are to be learnt by heart.
    pub fn training(&self, arm: Arm) -> RunConfig {
        let mut config = self.config.clone();
        if arm == Arm::FineTuning {
            config.sft.num_train_epochs *= BY_HEART;
        }
        config
    }

    /// Tries one arm.
    ///
    /// - `observer`: hears of a training, and is asked whether to stop
    /// - `answered`: is told of each finished answer, out of how many
    ///
    /// Errors: [`Error::Data`] for a menu that lacks a drink of the orders; [`Error::Interrupted`]; those of
    /// [`Session::prepare`], [`train::run`] and [`evaluate::answers`].
    pub fn run(
        &self,
        arm: Arm,
        observer: &mut dyn Observer,
        answered: &mut dyn FnMut(usize, usize),
    ) -> Result<Measured> {
        for menu in [&self.before, &self.after] {
            task::check_menu(menu, self.train.iter().chain(&self.test))?;
        }
        let (answering, setup_seconds) = self.set_up(arm, observer)?;
        let started = Instant::now();
        let retrievers = [&self.before, &self.after].map(|menu| arm.retrieves().then(|| Retriever::new(menu.clone())));
        // Two were made, and one is needed.
        let setup_seconds = setup_seconds + started.elapsed().as_secs_f64() / 2.0;
        let menus = [&self.before, &self.after];
        // The examples in a prompt are the old menu's where nothing is looked up: nobody has changed them.
        let records = [0, 1].map(|now: usize| -> Vec<Record> {
            let (retriever, shown) = (retrievers[now].as_ref(), if arm.retrieves() { now } else { 0 });
            let record = |case: &Case| {
                let asked = match arm.trains() {
                    true => task::record(case, menus[now], retriever),
                    false => {
                        task::prompted(case, &self.train[..arm.shots().min(self.train.len())], menus[shown], retriever)
                    }
                };
                Record { output: task::answer(&case.order, menus[now]), ..asked }
            };
            self.test.iter().map(record).collect()
        });
        let sets = if arm.retrieves() { 2 } else { 1 };
        let (all, count) = (sets * self.test.len(), self.test.len());
        let mut evaluations: Vec<Vec<Scored>> = Vec::new();
        for (i, records) in records.iter().take(sets).enumerate() {
            let mut on_progress = |done, _| answered(i * count + done, all);
            evaluations.push(answering.answer(records, 16, &mut on_progress, observer)?);
        }
        let (prompt_tokens, latency_seconds) = answering.time(&records[0], observer)?;
        // Without retrieval nothing of the prompt has changed, and neither have the answers.
        let scores = |now: usize| scores(&records[now], evaluations.get(now).or(evaluations.first()));
        Ok(Measured {
            arm,
            before: scores(0),
            after: scores(1),
            orders: count,
            examples: if arm.trains() { self.train.len() } else { arm.shots() },
            prompt_tokens,
            latency_seconds,
            setup_seconds,
        })
    }

    /// The model of an arm, and the seconds that it took to train.
    fn set_up(&self, arm: Arm, observer: &mut dyn Observer) -> Result<(Answering, f64)> {
        if !arm.trains() {
            let (pretrained, decoder) = load_base(self.model, &self.device)?;
            let template = Template::for_model(CHAT, &pretrained)?;
            return Ok((Answering { pretrained, decoder, template }, 0.0));
        }
        let started = Instant::now();
        let folder = self.config.output_dir.join(arm.name().replace(" + ", "-").to_lowercase());
        let data = self.config.output_dir.join(format!("{}.jsonl", folder.file_name().unwrap_or_default().display()));
        let records = task::training(&self.train, &self.before, arm.retrieves(), self.config.seed);
        files::create_directory(&self.config.output_dir)?;
        files::write_atomic(&data, crate::data::orders::jsonl(&records).as_bytes())?;
        let config = RunConfig { data: data.display().to_string(), output_dir: folder, ..self.training(arm) };
        config.check_output_dir()?;
        let inputs = Inputs {
            model: self.model,
            base_model: self.base_model,
            data: &data,
            eval_data: None,
            device: self.device.clone(),
        };
        let mut session = Session::prepare(config, &inputs, observer, |_, _| {})?;
        let made = started.elapsed().as_secs_f64();
        let end = train::run(&mut session, observer)?;
        let Session { pretrained, decoder, template, .. } = session;
        Ok((Answering { pretrained, decoder, template }, made + end.train_seconds))
    }
}

impl Answering {
    fn config(&self, batch_size: usize) -> GenerationConfig {
        evaluate::greedy(&self.pretrained, 120, batch_size)
    }

    fn answer(
        &self,
        records: &[Record],
        batch_size: usize,
        on_progress: &mut dyn FnMut(usize, usize),
        observer: &dyn Observer,
    ) -> Result<Vec<Scored>> {
        let Self { pretrained, decoder, template } = self;
        let cancelled = || observer.cancelled();
        let config = self.config(batch_size);
        let evaluation = evaluate::answers(decoder, pretrained, template, records, &config, on_progress, &cancelled)?;
        if evaluation.interrupted {
            return Err(Error::Interrupted { saved: None });
        }
        Ok(evaluation.examples)
    }

    /// Tokens of a prompt, and seconds for an answer, on average over the first records.
    fn time(&self, records: &[Record], observer: &dyn Observer) -> Result<(f64, f64)> {
        let tokenizer = self.pretrained.tokenizer()?;
        let tokens = |record: &Record| -> Result<usize> {
            let prompt = self.template.prompt(record)?;
            Ok(crate::generate::encode(tokenizer, &prompt, self.template.wants_special_tokens())?.len())
        };
        let all = records.iter().map(tokens).sum::<Result<usize>>()?;
        let timed = &records[..TIMED.min(records.len())];
        let started = Instant::now();
        self.answer(timed, 1, &mut |_, _| {}, observer)?;
        Ok((all as f64 / records.len().max(1) as f64, started.elapsed().as_secs_f64() / timed.len().max(1) as f64))
    }
}

fn scores(records: &[Record], answers: Option<&Vec<Scored>>) -> Scores {
    let answers = answers.map_or(&[][..], Vec::as_slice);
    let rate = |hit: &dyn Fn(&Record, &Scored) -> bool| {
        let hits = records.iter().zip(answers).filter(|(record, scored)| hit(record, scored)).count();
        hits as f64 / records.len().max(1) as f64
    };
    Scores {
        exact_match: rate(&|record, scored| evaluate::exact_match(&record.output, &scored.answer)),
        valid_json: rate(&|_, scored| scored.valid_json),
        right_price: rate(&|record, scored| task::right_prices(&record.output, &scored.answer)),
    }
}
