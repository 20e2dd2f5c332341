//! A model that is ready to answer, and the text that its prompts have.

use std::path::{Path, PathBuf};

use ferrotune::candle_core::{DType, Device};
use ferrotune::data::{CHAT, PromptFile, Record, Template};
use ferrotune::lora::peft;
use ferrotune::model::{self, Decoder, LoadOptions, Pretrained, Quantization};
use ferrotune::prompt_tuning::SoftPrompt;
use ferrotune::quant::QuantType;
use ferrotune::train::RunConfig;
use ferrotune::train::config::Method;
use ferrotune::{Error, device, generate, hub, prompt_tuning};

use crate::adapted::ModelArgs;
use crate::failure::Failure;
use crate::progress;

/// NF4 with double quantization, as a run by qlora has it.
pub(crate) const NF4: Quantization = Quantization { quant_type: QuantType::Nf4, double: true };

/// A model with or without an adapter, loaded.
pub(crate) struct Opened {
    pub(crate) pretrained: Pretrained,
    pub(crate) decoder: Decoder,
    /// The name that the model was asked for by.
    pub(crate) name: String,
    prompt: Option<PromptFile>,
}

/// How exact a model's products have to be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Precision {
    /// bf16, as in training.
    Fast,
    /// f32 on a CPU, for numbers that are compared with other implementations.
    Full,
}

impl ModelArgs {
    /// Loads what the arguments name.
    pub(crate) fn open(&self, precision: Precision) -> Result<Opened, Failure> {
        let name = match (&self.model, &self.adapter) {
            (Some(model), _) => model.clone(),
            (None, Some(adapter)) => base_of(adapter)?,
            (None, None) => return Err(Failure::Input("`--model` must be given.".into())),
        };
        let pretrained = open(&name).map_err(|error| match (error, &self.model, &self.adapter) {
            // Nobody typed this name.
            (Error::Read { path, source, .. }, None, Some(adapter)) => {
                let hint = format!(
                    "The adapter `{}` says that it was trained on it; name it with `--model`.",
                    adapter.display()
                );
                Error::Read { path, hint, source }
            }
            (other, ..) => other,
        })?;
        let device = device::choose(device::Wanted::Auto)?.device;
        let narrow = device.is_cuda() || precision == Precision::Fast;
        let dtype = if narrow { DType::BF16 } else { DType::F32 };
        let mut options = LoadOptions::new(device.clone(), dtype);
        if self.load_in_4bit {
            options = options.quantized(NF4);
        }
        let mut decoder = load(&pretrained, &options)?;
        if let Some(directory) = &self.adapter {
            put_on(&mut decoder, directory, &device)?;
        }
        // A merged model's folder has the prompt of the adapter that is in it.
        let prompt = match &self.adapter {
            Some(directory) => PromptFile::load(directory)?,
            None if pretrained.path.is_dir() => PromptFile::load(&pretrained.path)?,
            None => None,
        };
        Ok(Opened { pretrained, decoder, name, prompt })
    }
}

impl Opened {
    /// The text that the model's prompts have: the one it or its adapter was trained with; for a bare model its own chat
    /// template, or Alpaca's text where it has none.
    pub(crate) fn template(&self) -> Result<Template, Error> {
        let name = match &self.prompt {
            Some(prompt) => prompt.template.as_str(),
            None if self.pretrained.chat_template.is_some() => CHAT,
            None => "alpaca",
        };
        Template::for_model(name, &self.pretrained)
    }

    /// The text that records have: the one that was trained with; for a bare model Alpaca's.
    pub(crate) fn record_template(&self) -> Result<Template, Error> {
        let name = self.prompt.as_ref().map_or("alpaca", |prompt| prompt.template.as_str());
        Template::for_model(name, &self.pretrained)
    }

    /// How the run wraps a bare line, where it tells.
    pub(crate) fn prompt(&self) -> Option<&PromptFile> {
        self.prompt.as_ref()
    }

    /// The ids of a record's prompt.
    pub(crate) fn prompt_ids(&self, template: &Template, record: &Record) -> Result<Vec<u32>, Error> {
        encode(&self.pretrained, &template.prompt(record)?, template.wants_special_tokens())
    }
}

/// The ids of `text`, with the tokens that the tokenizer puts around a text if `special`.
pub(crate) fn encode(pretrained: &Pretrained, text: &str, special: bool) -> Result<Vec<u32>, Error> {
    generate::encode(pretrained.tokenizer()?, text, special)
}

/// Finds and opens the model called `name`.
pub(crate) fn open(name: &str) -> Result<Pretrained, Error> {
    let path = hub::resolve_with(name, &mut progress::transfer())?;
    model::open(&path)
}

/// Loads the weights, with a sign of life on a terminal.
pub(crate) fn load(pretrained: &Pretrained, options: &LoadOptions) -> Result<Decoder, Error> {
    let what = if options.quantization.is_some() { "loading and quantizing the model" } else { "loading the model" };
    let bar = progress::bar(pretrained.config.num_hidden_layers as u64, what);
    let decoder = model::load(pretrained, options, |done, _| bar.set_position(done as u64));
    bar.finish_and_clear();
    decoder
}

/// Puts the adapter in `directory` onto `decoder`.
fn put_on(decoder: &mut Decoder, directory: &Path, device: &Device) -> Result<(), Error> {
    if prompt_tuning::is_prompt(directory)? {
        let prompt = SoftPrompt::load(directory, decoder.config.hidden_size, device)?;
        return decoder.set_soft_prompt(&prompt, false);
    }
    let adapter = peft::load(directory, &decoder.module_shapes(), device)?;
    decoder.set_adapter(&adapter, false)
}

/// The 4-bit format beside which the adapter in `directory` was trained; `None` if it was another or is not known.
pub(crate) fn trained_beside(directory: &Path) -> Result<Option<Quantization>, Error> {
    let path = directory.join("config.toml");
    let Ok(text) = std::fs::read_to_string(&path) else { return Ok(None) };
    let run = RunConfig::from_toml(&text, &path)?;
    let quant_type = run.quantization.bnb_4bit_quant_type.filter(|_| run.method == Method::Qlora);
    Ok(quant_type.map(|quant_type| Quantization { quant_type, double: run.quantization.bnb_4bit_use_double_quant }))
}

/// The name of the model that the adapter in `directory` was trained on: as the run was told, else as PEFT's file says.
pub(crate) fn base_of(directory: &Path) -> Result<String, Error> {
    let run: PathBuf = directory.join("config.toml");
    if let Ok(text) = std::fs::read_to_string(&run) {
        return Ok(RunConfig::from_toml(&text, &run)?.model);
    }
    let path = directory.join(peft::CONFIG_FILE);
    let base = peft::base_model(&path)?;
    if base.is_empty() {
        let hint = "Name the model with `--model`.";
        return Err(Error::format(&path, "key `base_model_name_or_path`", "the base model is not named", hint));
    }
    Ok(hub::name_of(&base))
}
