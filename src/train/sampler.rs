//! Which rows make up which optimizer step: a pure function of the seed and the step, so that resuming needs no state.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// Splits an epoch's rows into micro-batches and these into optimizer steps, as transformers' `Trainer` does: the last
/// micro-batch takes the rows that are left, the last step the micro-batches that are left.
#[derive(Clone, Debug)]
pub struct Sampler {
    rows: usize,
    batch_size: usize,
    accumulation: usize,
    /// `None` keeps the order.
    shuffle_seed: Option<u64>,
    /// The order of the epoch that was asked for last.
    order: Option<(usize, Vec<usize>)>,
}

/// The micro-batches of one optimizer step, each a list of row indices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepRows {
    /// From 0.
    pub epoch: usize,
    pub micro_batches: Vec<Vec<usize>>,
}

impl Sampler {
    /// A sampler of `rows` ≥ 1 rows; `batch_size` and `accumulation` ≥ 1.
    pub fn new(rows: usize, batch_size: usize, accumulation: usize, shuffle_seed: Option<u64>) -> Self {
        Self { rows, batch_size, accumulation, shuffle_seed, order: None }
    }

    /// Optimizer steps in one epoch.
    pub fn steps_per_epoch(&self) -> usize {
        self.rows.div_ceil(self.batch_size).div_ceil(self.accumulation).max(1)
    }

    /// The rows of optimizer step `step`, from 0.
    pub fn step(&mut self, step: usize) -> StepRows {
        let epoch = step / self.steps_per_epoch();
        let per_step = self.batch_size * self.accumulation;
        let start = (step % self.steps_per_epoch()) * per_step;
        let (batch_size, end) = (self.batch_size, (start + per_step).min(self.rows));
        let order = self.epoch_order(epoch);
        StepRows { epoch, micro_batches: order[start..end].chunks(batch_size).map(<[usize]>::to_vec).collect() }
    }

    fn epoch_order(&mut self, epoch: usize) -> &[usize] {
        let (_, order) = match self.order.take() {
            Some(held) if held.0 == epoch => self.order.insert(held),
            _ => {
                let mut order: Vec<usize> = (0..self.rows).collect();
                if let Some(seed) = self.shuffle_seed {
                    let mut rng = ChaCha8Rng::seed_from_u64(seed);
                    rng.set_stream(epoch as u64);
                    order.shuffle(&mut rng);
                }
                self.order.insert((epoch, order))
            }
        };
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_takes_every_row_once() {
        let mut sampler = Sampler::new(11, 2, 3, Some(7));
        assert_eq!(sampler.steps_per_epoch(), 2);
        for epoch in 0..3 {
            let steps: Vec<StepRows> = (0..2).map(|s| sampler.step(2 * epoch + s)).collect();
            assert!(steps.iter().all(|s| s.epoch == epoch));
            assert_eq!(steps[1].micro_batches.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 1]);
            let mut rows: Vec<usize> = steps.iter().flat_map(|s| s.micro_batches.concat()).collect();
            rows.sort_unstable();
            assert_eq!(rows, (0..11).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_step_does_not_depend_on_those_before() {
        let mut straight = Sampler::new(10, 2, 1, Some(3));
        let all: Vec<StepRows> = (0..15).map(|s| straight.step(s)).collect();
        assert_eq!(Sampler::new(10, 2, 1, Some(3)).step(12), all[12]);
        assert_ne!(all[0].micro_batches, all[5].micro_batches, "epochs are shuffled anew");
    }

    #[test]
    fn without_shuffling_rows_keep_their_order() {
        assert_eq!(Sampler::new(4, 2, 1, None).step(1).micro_batches, [[2, 3]]);
    }
}
