//! What a run needs before its first step: the model loaded, the data tokenized and laid out in rows.

use super::config::{ComputeDtype, Method, Resume, RunConfig};
use super::evaluation::evaluation_loss;
use super::observer::{Event, Observer};
use crate::data::{self, Example, Report, Template, TokenizeOptions};
use crate::lora::{Adapter, peft};
use crate::model::{self, Batch, Decoder, LoadOptions, Pretrained, Quantization};
use crate::prompt_tuning::SoftPrompt;
use crate::{Error, Result};
use candle_core::{DType, Device};
use std::path::Path;
use tokenizers::Tokenizer;

/// Local paths of what a [`RunConfig`] names.
#[derive(Clone, Debug)]
pub struct Inputs<'a> {
    pub model: &'a Path,
    /// What the adapter's files and the card call the base model.
    pub base_model: &'a str,
    pub data: &'a Path,
    pub eval_data: Option<&'a Path>,
    pub device: Device,
}

/// What a run trains, beside or instead of the model's own weights.
#[derive(Clone, Debug)]
pub enum Trained {
    /// The model's own.
    Weights,
    Adapter(Adapter),
    SoftPrompt(SoftPrompt),
}

/// A run that is ready to start.
pub struct Session {
    pub config: RunConfig,
    pub pretrained: Pretrained,
    pub decoder: Decoder,
    pub trained: Trained,
    pub template: Template,
    /// The one instruction of all records, where they share one.
    pub instruction: Option<String>,
    pub report: Report,
    pub(super) examples: Vec<Example>,
    /// Indices into `examples`: packs with `packing`, else one example each.
    pub(super) rows: Vec<Vec<usize>>,
    pub(super) eval_examples: Vec<Example>,
}

impl Session {
    /// Loads everything; `observer` hears notes, `progress` of each loaded block.
    ///
    /// Errors: those of the files, the data and the settings; nothing has been written then.
    pub fn prepare(
        config: RunConfig,
        inputs: &Inputs,
        observer: &mut dyn Observer,
        progress: impl FnMut(usize, usize),
    ) -> Result<Self> {
        config.validate()?;
        let pretrained = model::open(inputs.model)?;
        let template = Template::for_model(config.template.name(), &pretrained)?;
        let records = data::load(inputs.data)?;
        let eos = pretrained.eos_token_id()?;
        let tokenize = |path: &Path, records: &[data::Record]| {
            let options = TokenizeOptions {
                max_length: config.sft.max_length,
                completion_only_loss: config.sft.completion_only_loss,
                eos_token_id: eos,
                bos: pretrained.leading_bos(),
            };
            let tokenized = data::tokenize(records, &template, pretrained.tokenizer()?, &options);
            tokenized.and_then(|t| t.check(pretrained.config.vocab_size, eos).map(|()| t)).map_err(|e| e.in_file(path))
        };
        let train = tokenize(inputs.data, &records)?;
        if train.report.truncated > 0 {
            let Report { truncated, cut_tokens, dropped, .. } = train.report;
            let max_length = config.sft.max_length;
            let note = format!(
                "{truncated} examples are longer than `max_length` = {max_length} and lost {cut_tokens} tokens; \
                 {dropped} of them had nothing left to train and were dropped"
            );
            observer.event(&Event::Note(&note));
        }
        let eval = match inputs.eval_data {
            Some(path) => tokenize(path, &data::load(path)?)?.examples,
            None => Vec::new(),
        };
        let rows = if config.sft.packing {
            let lengths: Vec<usize> = train.examples.iter().map(|e| e.ids.len()).collect();
            data::pack(&lengths, config.sft.max_length)
        } else {
            (0..train.examples.len()).map(|i| vec![i]).collect()
        };
        let mut decoder = model::load(&pretrained, &load_options(&config, inputs.device.clone()), progress)?;
        let trained = match config.method {
            Method::Full => Trained::Weights,
            Method::Lora | Method::Qlora => Trained::Adapter(first_adapter(&config, inputs, &decoder)?),
            Method::PromptTuning => {
                Trained::SoftPrompt(first_prompt(&config, inputs, &decoder, pretrained.tokenizer()?)?)
            }
        };
        match &trained {
            Trained::Weights => {}
            Trained::Adapter(adapter) => decoder.set_adapter(adapter, true)?,
            Trained::SoftPrompt(prompt) => decoder.set_soft_prompt(prompt, true)?,
        }
        let first = records.first().map(|r| r.instruction.clone());
        let instruction = first.filter(|i| records.iter().all(|r| r.instruction == *i));
        Ok(Self {
            config,
            pretrained,
            decoder,
            trained,
            template,
            instruction,
            report: train.report,
            examples: train.examples,
            rows,
            eval_examples: eval,
        })
    }

    /// The micro-batch of the rows with these indices.
    ///
    /// What its examples all begin with is computed once; not under dropout or noise, whose draws are to be each example's own.
    pub(super) fn batch(&self, rows: &[usize]) -> Result<Batch> {
        let examples = rows.iter().flat_map(|row| &self.rows[*row]).map(|i| &self.examples[*i]);
        let sequences = examples.map(|e| (e.ids.as_slice(), e.trained.as_slice()));
        let dropout = matches!(self.trained, Trained::Adapter(_)) && self.config.lora.lora_dropout > 0.0;
        let noise = self.config.sft.neftune_noise_alpha.is_some();
        self.decoder.batch(sequences, !dropout && !noise)
    }

    /// Changes the tokens and marks of every training example: for experiments with data that are wrong on purpose.
    pub fn edit_examples(&mut self, edit: impl FnMut(&mut Example)) {
        self.examples.iter_mut().for_each(edit);
    }

    /// The mean loss over the trained tokens of the first `n` held-out examples, in nats.
    ///
    /// Errors: [`Error::Data`] where there are none; those of the operations.
    pub fn evaluation_loss(&self, n: usize) -> Result<f64> {
        let examples = &self.eval_examples[..n.min(self.eval_examples.len())];
        let output = evaluation_loss(&self.decoder, examples, self.config.sft.max_length, &|| false)?;
        let output = output.filter(|output| output.count > 0);
        output
            .map(|output| output.loss_sum / output.count as f64)
            .ok_or_else(|| Error::data("", "there are no held-out examples", "Name a file of them as `eval_data`."))
    }

    /// How many parameters the model has, quantized ones counted singly.
    pub fn total_parameters(&self) -> usize {
        let base = self.decoder.base_parameter_count();
        match &self.trained {
            Trained::Weights => base,
            Trained::Adapter(adapter) => base + adapter.parameter_count(),
            Trained::SoftPrompt(prompt) => base + prompt.embeddings.elem_count(),
        }
    }
}

/// The type of activations.
pub(super) fn compute_dtype(config: &RunConfig) -> DType {
    match config.quantization.bnb_4bit_compute_dtype {
        // Adapters and every weight of a full fine-tune are f32 masters, and with `full` the model computes with them.
        ComputeDtype::Bfloat16 if config.method != Method::Full => DType::BF16,
        _ => DType::F32,
    }
}

fn load_options(config: &RunConfig, device: Device) -> LoadOptions {
    let dtype = compute_dtype(config);
    let quantization = match (config.method, config.quantization.bnb_4bit_quant_type) {
        (Method::Qlora, Some(quant_type)) => {
            Some(Quantization { quant_type, double: config.quantization.bnb_4bit_use_double_quant })
        }
        _ => None,
    };
    LoadOptions { device, dtype, quantization, train_weights: config.method == Method::Full }
}

fn first_adapter(config: &RunConfig, inputs: &Inputs, decoder: &Decoder) -> Result<Adapter> {
    match &config.init_adapter {
        Some(directory) => {
            let mut adapter = peft::load(directory, &decoder.module_shapes(), &inputs.device)?;
            adapter.base_model = inputs.base_model.to_string();
            adapter.set_dropout(config.lora.lora_dropout);
            Ok(adapter)
        }
        None => decoder.new_adapter(config.lora.clone(), inputs.base_model, config.seed),
    }
}

fn first_prompt(config: &RunConfig, inputs: &Inputs, decoder: &Decoder, tokenizer: &Tokenizer) -> Result<SoftPrompt> {
    let settings = config.prompt_tuning.clone();
    let embeddings = SoftPrompt::first_embeddings(&settings, decoder.embeddings(), tokenizer, config.seed)?;
    Ok(SoftPrompt {
        config: settings,
        base_model: inputs.base_model.to_string(),
        embeddings,
        num_layers: decoder.config.num_hidden_layers,
        num_attention_heads: decoder.config.num_attention_heads,
    })
}

impl RunConfig {
    /// The checkpoint that a run of this configuration goes on from.
    ///
    /// Errors: [`Error::Config`] when `output_dir` holds a run and nothing says to go on from it.
    pub(super) fn checkpoint(&self) -> Result<Option<std::path::PathBuf>> {
        match &self.resume_from_checkpoint {
            Some(Resume::From(path)) => Ok(Some(path.clone())),
            Some(Resume::Auto) => Ok(super::checkpoint::newest(&self.output_dir)),
            None if self.output_dir.join(super::metrics::METRICS_FILE).exists() => Err(Error::config(
                "`output_dir`",
                format!("`{}` holds a run already, which would be overwritten", self.output_dir.display()),
                "Choose another folder, remove this one, or set `resume_from_checkpoint = \"auto\"` to go on with it.",
            )),
            None => Ok(None),
        }
    }
}
