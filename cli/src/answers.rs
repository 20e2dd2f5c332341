//! Answers to many records at once, scored.

use ferrotune::Error;
use ferrotune::data::{Record, Template};
use ferrotune::evaluate::{self, Evaluation};
use ferrotune::generate::GenerationConfig;
use ferrotune::model::{Decoder, Pretrained};

use crate::{interrupt, progress};

/// Lets the model answer every record, with progress on a terminal. After a request to stop, what is finished is scored.
pub(crate) fn answer(
    decoder: &Decoder,
    pretrained: &Pretrained,
    template: &Template,
    records: &[Record],
    config: &GenerationConfig,
) -> Result<Evaluation, Error> {
    let bar = progress::bar(records.len() as u64, "answers");
    let mut on_progress = |done, _| bar.set_position(done as u64);
    let evaluation =
        evaluate::answers(decoder, pretrained, template, records, config, &mut on_progress, &interrupt::asked);
    bar.finish_and_clear();
    evaluation
}
