//! The loss on held-out examples, without a gradient and without kept logits.

use crate::Result;
use crate::data::Example;
use crate::model::Decoder;
use crate::ops::linear_cross_entropy::Output;

/// The sum of the losses over the trained tokens of `examples`, in micro-batches of at most `max_tokens` tokens (or one
/// example); `None` where there are no examples, and once `cancelled`, which is asked before each, says true.
pub fn evaluation_loss(
    decoder: &Decoder,
    examples: &[Example],
    max_tokens: usize,
    cancelled: &dyn Fn() -> bool,
) -> Result<Option<Output>> {
    let mut total: Option<Output> = None;
    let mut rest = examples;
    while !rest.is_empty() {
        if cancelled() {
            return Ok(None);
        }
        let mut tokens = 0;
        let fits = |e: &&Example| {
            tokens += e.ids.len();
            tokens <= max_tokens
        };
        let n = rest.iter().take_while(fits).count().max(1);
        let (now, later) = rest.split_at(n);
        rest = later;
        let batch = decoder.batch(now.iter().map(|e| (e.ids.as_slice(), e.trained.as_slice())), true)?;
        let output = decoder.loss(&batch)?;
        total = Some(match total {
            Some(sum) => Output { loss_sum: sum.loss_sum + output.loss_sum, count: sum.count + output.count },
            None => output,
        });
    }
    Ok(total)
}
