//! A micro-batch without padding: its sequences stand one after the other.

use crate::ops::linear_cross_entropy::IGNORE_INDEX;
use crate::{Error, Result};

/// Token sequences laid end to end. T is the number of tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// `[T]`
    pub ids: Vec<u32>,
    /// `[T]`, from 0 in each sequence
    pub positions: Vec<u32>,
    /// `[T]`: the token that should follow, or [`IGNORE_INDEX`] where none is trained
    pub targets: Vec<u32>,
    /// FlashAttention's `cu_seqlens`: where each sequence begins, and T
    pub cu_seqlens: Vec<usize>,
}

impl Batch {
    /// Lays out `sequences` of (ids, trained): `trained[i]` says that token i counts as a target.
    ///
    /// The first token of a sequence follows nothing, so it is no target. Empty sequences are left out.
    /// Errors: [`Error::Shape`] where `trained` is not as long as `ids`.
    pub fn new<'a>(sequences: impl IntoIterator<Item = (&'a [u32], &'a [bool])>) -> Result<Self> {
        let mut batch = Self { cu_seqlens: vec![0], ..Self::default() };
        for (ids, trained) in sequences {
            if ids.len() != trained.len() {
                let what = format!("{} ids with {} marks", ids.len(), trained.len());
                return Err(Error::Shape { op: "batch", what });
            }
            if ids.is_empty() {
                continue;
            }
            batch.ids.extend_from_slice(ids);
            batch.positions.extend(0..ids.len() as u32);
            let next = ids.iter().zip(trained).skip(1);
            batch.targets.extend(next.map(|(id, trained)| if *trained { *id } else { IGNORE_INDEX }));
            batch.targets.push(IGNORE_INDEX);
            batch.cu_seqlens.push(batch.ids.len());
        }
        Ok(batch)
    }

    /// One sequence with nothing trained.
    pub fn single(ids: &[u32]) -> Self {
        Self {
            ids: ids.to_vec(),
            positions: (0..ids.len() as u32).collect(),
            targets: vec![IGNORE_INDEX; ids.len()],
            cu_seqlens: vec![0, ids.len()],
        }
    }

    /// How many tokens count in the loss.
    pub fn trained_tokens(&self) -> usize {
        self.targets.iter().filter(|t| **t != IGNORE_INDEX).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_do_not_train_across_their_border() {
        let (a, b) = ([5, 6, 7], [8, 9]);
        let batch = Batch::new([(&a[..], &[false, true, true][..]), (&b[..], &[true, true][..])]).unwrap();
        assert_eq!(batch.ids, [5, 6, 7, 8, 9]);
        assert_eq!(batch.positions, [0, 1, 2, 0, 1]);
        assert_eq!(batch.targets, [6, 7, IGNORE_INDEX, 9, IGNORE_INDEX]);
        assert_eq!(batch.cu_seqlens, [0, 3, 5]);
        assert_eq!(batch.trained_tokens(), 3);
    }
}
