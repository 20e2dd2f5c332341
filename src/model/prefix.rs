//! A beginning that all sequences of a micro-batch have in common, computed once.
//!
//! Instruction data repeats itself: a system prompt, a template's opening, the one instruction of all records. Where nothing
//! of it is trained, no row of the shared beginning depends on what follows it, so one copy serves all sequences. Only
//! attention lays the rows out as if each sequence had a copy of its own:
//!
//! ```text
//! batch     p p p a a a b b          layout    p p p a a a  p p p b b
//! ```
//!
//! [`Copies`]' `spread` goes from the batch to the layout, `first` back; `place` is the transpose of the latter, and `sum` that
//! of the former: the gradient of a row is the sum of those of its copies.

use crate::Result;
use crate::ops::gather::Gather;
use candle_core::Device;

/// Shorter beginnings are not worth the copying.
const WORTHWHILE: usize = 8;

/// Rows of a batch of T, for each of the L rows of the layout in which every sequence is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedPrefix {
    /// Tokens of the shared beginning.
    pub len: usize,
    /// `[L]`: the row of the batch that stands here.
    rows: Vec<u32>,
    /// `[T]`: where each row of the batch first stands.
    first: Vec<u32>,
}

impl SharedPrefix {
    /// The longest beginning of all `sequences` of (ids, trained) that is the same, untrained, and followed by a token of
    /// each; 0 where there are fewer than two sequences, or where it is too short to be worth it.
    pub(super) fn find(sequences: &[(&[u32], &[bool])]) -> usize {
        let [(first, _), rest @ ..] = sequences else { return 0 };
        if rest.is_empty() {
            return 0;
        }
        let untrained = |(ids, trained): &(&[u32], &[bool])| {
            // The last row of the beginning predicts the token after it, which differs: that must not be trained either.
            let untrained = trained.iter().skip(1).take_while(|t| !**t).count();
            untrained.min(ids.len().saturating_sub(1))
        };
        let limit = sequences.iter().map(untrained).min().unwrap_or(0);
        let same = |ids: &[u32]| first.iter().zip(ids).take_while(|(a, b)| a == b).count();
        let len = rest.iter().map(|(ids, _)| same(ids)).min().unwrap_or(0).min(limit);
        if len < WORTHWHILE { 0 } else { len }
    }

    /// The layout of sequences of these lengths, whose first `len` tokens stand once, at the start of the batch.
    pub(super) fn new(len: usize, lengths: impl Iterator<Item = usize>) -> Self {
        let (mut rows, mut first) = (Vec::new(), (0..len as u32).collect::<Vec<_>>());
        for length in lengths {
            rows.extend(0..len as u32);
            for _ in len..length {
                first.push(rows.len() as u32);
                rows.push(first.len() as u32 - 1);
            }
        }
        Self { len, rows, first }
    }

    /// The same on a device.
    pub(super) fn copies(&self, device: &Device) -> Result<Copies> {
        let spread = Gather::select(&self.rows, self.first.len(), device)?;
        let first = Gather::select(&self.first, self.rows.len(), device)?;
        let (sum, place) = (spread.transposed()?, first.transposed()?);
        Ok(Copies { spread, sum, first, place })
    }
}

/// The ways between a batch of T rows and the layout of a [`SharedPrefix`], of L.
#[derive(Debug)]
pub struct Copies {
    /// `[T, n]` to `[L, n]`: each row to all of its copies.
    pub(super) spread: Gather,
    /// `[L, n]` to `[T, n]`: the sum over each row's copies.
    pub(super) sum: Gather,
    /// `[L, n]` to `[T, n]`: the first copy of each row. All copies have the same value.
    pub(super) first: Gather,
    /// `[T, n]` to `[L, n]`: each row to its first copy, zeros to the others.
    pub(super) place: Gather,
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Tensor;

    /// Sequences of these ids, of which the last `trained` are trained.
    fn common(sequences: &[(&[u32], usize)]) -> usize {
        let marks: Vec<Vec<bool>> =
            sequences.iter().map(|(ids, n)| (0..ids.len()).map(|i| i + n >= ids.len()).collect()).collect();
        let pairs: Vec<_> = sequences.iter().zip(&marks).map(|((ids, _), marks)| (*ids, &**marks)).collect();
        SharedPrefix::find(&pairs)
    }

    #[test]
    fn what_is_shared_is_untrained_and_followed_by_something() {
        let a: Vec<u32> = (0..12).collect();
        let b: Vec<u32> = (0..10).chain([77, 78, 79]).collect();
        assert_eq!(common(&[(&a, 1), (&b, 1)]), 10, "up to where they part");
        assert_eq!(common(&[(&a, 3), (&b, 1)]), 8, "row 8 predicts token 9, which is trained");
        assert_eq!(common(&[(&a, 1), (&a, 1)]), 10, "row 10 predicts token 11, which is trained");
        assert_eq!(common(&[(&a, 0), (&a[..9], 0)]), 8, "each sequence keeps a token of its own");
        assert_eq!(common(&[(&a, 4), (&b, 1)]), 0, "seven are too few");
        assert_eq!(common(&[(&a, 1)]), 0, "alone");
        assert_eq!(common(&[(&a, 12), (&b, 13)]), 0, "all trained");
        assert_eq!(common(&[]), 0);
    }

    #[test]
    fn rows_go_to_their_copies_and_gradients_come_back() -> Result<()> {
        let copies = SharedPrefix::new(2, [3, 4].into_iter()).copies(&Device::Cpu)?;
        let x = Tensor::new(&[[1f32], [2.], [3.], [4.], [5.]], &Device::Cpu)?;
        let spread = copies.spread.apply(&x)?;
        assert_eq!(spread.flatten_all()?.to_vec1::<f32>()?, [1., 2., 3., 1., 2., 4., 5.]);
        assert_eq!(copies.first.apply(&spread)?.to_vec2::<f32>()?, x.to_vec2::<f32>()?);
        assert_eq!(copies.place.apply(&x)?.flatten_all()?.to_vec1::<f32>()?, [1., 2., 3., 0., 0., 4., 5.]);
        assert_eq!(copies.sum.apply(&spread)?.flatten_all()?.to_vec1::<f32>()?, [2., 4., 3., 4., 5.]);
        Ok(())
    }
}
