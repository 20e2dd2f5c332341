//! A micro-batch without padding: its sequences stand one after the other.

use super::prefix::SharedPrefix;
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
    /// FlashAttention's `cu_seqlens`: where each sequence begins, and T; with a `prefix`, in the layout that it describes
    pub cu_seqlens: Vec<usize>,
    /// What the sequences begin with, where it stands once for all of them
    pub prefix: Option<SharedPrefix>,
    /// How many virtual tokens all sequences have together: see [`crate::prompt_tuning`]
    pub virtual_tokens: usize,
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

    /// [`Batch::new`] with what all sequences begin with laid out once, where none of it is trained: the same losses and
    /// gradients by less work, up to rounding. Dropout would drop the same of it for all sequences.
    ///
    /// Errors: as [`Batch::new`].
    pub fn sharing_prefix<'a>(sequences: impl IntoIterator<Item = (&'a [u32], &'a [bool])>) -> Result<Self> {
        let sequences: Vec<_> = sequences.into_iter().filter(|(ids, _)| !ids.is_empty()).collect();
        let shared = SharedPrefix::find(&sequences);
        let whole = Self::new(sequences.iter().copied())?;
        if shared == 0 {
            return Ok(whole);
        }
        let beginning = 0..shared;
        let own = whole.cu_seqlens.windows(2).map(|w| w[0] + shared..w[1]);
        let rows: Vec<usize> = std::iter::once(beginning).chain(own).flatten().collect();
        let of = |all: &[u32]| rows.iter().map(|row| all[*row]).collect();
        let prefix = SharedPrefix::new(shared, sequences.iter().map(|(ids, _)| ids.len()));
        Ok(Self {
            ids: of(&whole.ids),
            positions: of(&whole.positions),
            targets: of(&whole.targets),
            prefix: Some(prefix),
            ..whole
        })
    }

    /// One sequence with nothing trained.
    pub fn single(ids: &[u32]) -> Self {
        Self {
            ids: ids.to_vec(),
            positions: (0..ids.len() as u32).collect(),
            targets: vec![IGNORE_INDEX; ids.len()],
            cu_seqlens: vec![0, ids.len()],
            prefix: None,
            virtual_tokens: 0,
        }
    }

    /// How many tokens the sequences have, each counted whole, virtual ones left out.
    pub fn tokens(&self) -> usize {
        self.cu_seqlens.last().copied().unwrap_or(0) - self.virtual_tokens
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

    #[test]
    fn a_shared_prefix_stands_once() {
        let prefix: Vec<u32> = (20..29).collect();
        let [a, b] = [[1, 2].as_slice(), &[3]].map(|end| [&prefix[..], end].concat());
        let marks = |ids: &[u32]| (0..ids.len()).map(|i| i + 1 == ids.len()).collect::<Vec<bool>>();
        let (marks_a, marks_b) = (marks(&a), marks(&b));
        let batch = Batch::sharing_prefix([(&a[..], &marks_a[..]), (&b, &marks_b)]).unwrap();
        // Row 8 of `b` predicts its trained token, so the ninth token is not shared.
        assert_eq!(batch.ids, [&prefix[..8], &[28, 1, 2], &[28, 3]].concat());
        assert_eq!(batch.positions, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 8, 9]);
        assert_eq!(batch.cu_seqlens, [0, 11, 21]);
        assert_eq!((batch.tokens(), batch.trained_tokens()), (21, 2));
    }
}
