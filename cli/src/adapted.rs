//! The arguments that name a model and say how it answers, shared by the commands that run one.

use std::path::PathBuf;

use ferrotune::generate::GenerationConfig;

/// A model, with or without an adapter.
#[derive(clap::Args)]
pub(crate) struct ModelArgs {
    /// Base model: an alias (smollm2-135m), hf:org/name[@revision], a folder with safetensors, or a .gguf file. May be
    /// left out with --adapter: then it is the one that the adapter was trained on
    #[arg(long, value_name = "M", required_unless_present = "adapter")]
    pub(crate) model: Option<String>,

    /// PEFT adapter's folder, such as a run's
    #[arg(long, value_name = "A")]
    pub(crate) adapter: Option<PathBuf>,

    /// Quantize the model to NF4 with double quantization first, as a run by qlora does
    #[arg(long)]
    pub(crate) load_in_4bit: bool,
}

/// How the next token is chosen.
#[derive(clap::Args)]
pub(crate) struct SamplingArgs {
    /// Most tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub(crate) max_new_tokens: usize,

    /// 0 takes the likeliest token; above 0 samples, the wilder the higher
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    pub(crate) temperature: f64,

    /// Sample among the K likeliest tokens only
    #[arg(long, value_name = "K")]
    pub(crate) top_k: Option<usize>,

    /// Sample among the likeliest tokens that make up this probability only
    #[arg(long, value_name = "P")]
    pub(crate) top_p: Option<f64>,

    /// Divide the scores of tokens that stand in the text already; 1 changes nothing
    #[arg(long, value_name = "R", default_value_t = 1.0)]
    pub(crate) repetition_penalty: f64,

    /// Seed of the sampling
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
}

impl SamplingArgs {
    /// The same in the library's terms; an answer ends before the first of `stop_token_ids`.
    pub(crate) fn config(&self, stop_token_ids: &[u32]) -> GenerationConfig {
        GenerationConfig {
            max_new_tokens: self.max_new_tokens,
            temperature: self.temperature,
            top_k: self.top_k.unwrap_or(0),
            top_p: self.top_p.unwrap_or(1.0),
            repetition_penalty: self.repetition_penalty,
            stop_token_ids: stop_token_ids.to_vec(),
            seed: self.seed,
            ..GenerationConfig::default()
        }
    }
}
