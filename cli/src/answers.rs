//! Answers to many records at once, scored.

use ferrotune::Error;
use ferrotune::data::{Record, Template};
use ferrotune::evaluate::{self, Evaluation};
use ferrotune::generate::GenerationConfig;
use ferrotune::model::{Decoder, Pretrained};

use crate::{interrupt, opened, progress};

/// How answers are compared: greedily decoded, in batches.
pub(crate) fn greedy(pretrained: &Pretrained, max_new_tokens: usize, batch_size: usize) -> GenerationConfig {
    GenerationConfig {
        max_new_tokens,
        batch_size,
        stop_token_ids: pretrained.eos_token_ids.clone(),
        ..GenerationConfig::default()
    }
}

/// Lets the model answer every record, with progress on a terminal. After a request to stop, what is finished is scored.
pub(crate) fn answer(
    decoder: &Decoder,
    pretrained: &Pretrained,
    template: &Template,
    records: &[Record],
    config: &GenerationConfig,
) -> Result<Evaluation, Error> {
    let ids = |record| opened::encode(pretrained, &template.prompt(record)?, template.wants_special_tokens());
    let prompts = records.iter().map(ids).collect::<Result<Vec<_>, Error>>()?;
    let expected: Vec<String> = records.iter().map(|r| r.output.clone()).collect();
    let bar = progress::bar(records.len() as u64, "answers");
    let mut on_progress = |done, _| bar.set_position(done as u64);
    let tokenizer = pretrained.tokenizer()?;
    let evaluation =
        evaluate::evaluate(decoder, tokenizer, &prompts, &expected, config, &mut on_progress, &interrupt::asked);
    bar.finish_and_clear();
    evaluation
}
