//! The embeddings of a batch where virtual tokens stand before each sequence, and noise on embeddings.
//!
//! A virtual token is an id from the vocabulary's size on, so batches, shared beginnings and caches hold it like any other.

use super::parameters::{Gradients, ParameterId, Parameters};
use super::{Batch, Decoder};
use crate::prompt_tuning::{KEY, SoftPrompt};
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A prompt that stands before every sequence of a decoder.
#[derive(Debug)]
pub struct Attached {
    /// `[P, H]` f32
    embeddings: Tensor,
    /// Where its gradient goes, when it is being trained.
    pub(super) id: Option<ParameterId>,
}

impl Decoder {
    /// Puts `prompt` before every sequence; with `train` its embeddings become what training changes.
    ///
    /// Errors: [`Error::Config`] for a prompt of another model's width.
    pub fn set_soft_prompt(&mut self, prompt: &SoftPrompt, train: bool) -> Result<()> {
        let (width, hidden) = (prompt.embeddings.dim(1)?, self.config.hidden_size);
        if width != hidden {
            let what = format!("the prompt's embeddings have {width} numbers, the model's {hidden}");
            return Err(Error::config("", what, "Use the model that the prompt was trained on."));
        }
        let mut parameters = Parameters::default();
        let id = train.then(|| parameters.add(KEY, &prompt.embeddings));
        self.soft_prompt = Some(Attached { embeddings: prompt.embeddings.clone(), id });
        self.parameters = parameters;
        Ok(())
    }

    /// How many virtual tokens stand before each sequence.
    pub fn virtual_tokens(&self) -> usize {
        self.soft_prompt.as_ref().map_or(0, |prompt| prompt.embeddings.dims()[0])
    }

    /// Their ids.
    pub(super) fn virtual_ids(&self) -> impl Iterator<Item = u32> {
        let first = self.config.vocab_size as u32;
        first..first + self.virtual_tokens() as u32
    }

    /// A micro-batch of (ids, trained), with the virtual tokens before each sequence; `sharing` lays out once what the sequences
    /// begin with: see [`Batch::sharing_prefix`].
    ///
    /// Errors: those of [`Batch::new`].
    pub fn batch<'a>(
        &self,
        sequences: impl IntoIterator<Item = (&'a [u32], &'a [bool])>,
        sharing: bool,
    ) -> Result<Batch> {
        let lay = |sequences: Vec<(&[u32], &[bool])>| {
            if sharing { Batch::sharing_prefix(sequences) } else { Batch::new(sequences) }
        };
        let added = self.virtual_tokens();
        if added == 0 {
            return lay(sequences.into_iter().collect());
        }
        let longer: Vec<(Vec<u32>, Vec<bool>)> = sequences
            .into_iter()
            .filter(|(ids, _)| !ids.is_empty())
            .map(|(ids, trained)| {
                let marks = std::iter::repeat_n(false, added).chain(trained.iter().copied());
                (self.virtual_ids().chain(ids.iter().copied()).collect(), marks.collect())
            })
            .collect();
        let mut batch = lay(longer.iter().map(|(ids, trained)| (ids.as_slice(), trained.as_slice())).collect())?;
        batch.virtual_tokens = added * longer.len();
        Ok(batch)
    }

    /// The embeddings `[T, H]` of ids, virtual ones among them.
    pub(super) fn embed(&self, ids: &[u32]) -> Result<Tensor> {
        let vocabulary = self.config.vocab_size as u32;
        let Some(prompt) = &self.soft_prompt else {
            return Ok(self.embed_tokens.index_select(&self.ids(ids)?, 0)?);
        };
        let added = self.virtual_tokens() as u32;
        let real: Vec<u32> = ids.iter().filter(|id| **id < vocabulary || **id >= vocabulary + added).copied().collect();
        let mut table = vec![prompt.embeddings.to_dtype(self.dtype())?];
        if !real.is_empty() {
            table.push(self.embed_tokens.index_select(&self.ids(&real)?, 0)?);
        }
        let mut next = added;
        let row = |id: &u32| match id.checked_sub(vocabulary) {
            Some(virtual_id) => virtual_id,
            None => {
                next += 1;
                next - 1
            }
        };
        let rows: Vec<u32> = ids.iter().map(row).collect();
        Ok(Tensor::cat(&table, 0)?.index_select(&Tensor::new(rows, self.device())?, 0)?)
    }

    /// Adds the gradient of the prompt, where it is trained, for that of the embeddings, `dx` `[T, H]`.
    pub(super) fn prompt_gradient(&self, ids: &[u32], dx: &Tensor, gradients: &mut Gradients) -> Result<()> {
        let Some((prompt, id)) = self.soft_prompt.as_ref().and_then(|prompt| Some((prompt, prompt.id?))) else {
            return Ok(());
        };
        let vocabulary = self.config.vocab_size as u32;
        let places = ids.iter().enumerate().filter_map(|(row, id)| Some((row as u32, id.checked_sub(vocabulary)?)));
        let (rows, virtual_ids): (Vec<u32>, Vec<u32>) = places.unzip();
        let device = self.device();
        let dx = dx.index_select(&Tensor::new(rows, device)?, 0)?.to_dtype(DType::F32)?;
        let sum = prompt.embeddings.zeros_like()?.index_add(&Tensor::new(virtual_ids, device)?, &dx, 0)?;
        gradients.add(id, sum)
    }
}

/// NEFTune's noise (Jain et al., arXiv:2310.05914): uniform in ±alpha/√(L·H), L being the length of each sequence: `[T, H]` f32.
///
/// transformers draws it so for each row of a padded batch; there L counts the padding as well.
/// Errors: candle's.
pub(super) fn noise(batch: &Batch, hidden: usize, alpha: f64, seed: u64, device: &Device) -> Result<Tensor> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut values = Vec::with_capacity(batch.ids.len() * hidden);
    for sequence in batch.cu_seqlens.windows(2) {
        let count = (sequence[1] - sequence[0]) * hidden;
        let most = (alpha / (count as f64).sqrt()) as f32;
        values.extend((0..count).map(|_| most * (2.0 * rng.random::<f32>() - 1.0)));
    }
    Ok(Tensor::from_vec(values, (batch.ids.len(), hidden), device)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_bounded_by_each_sequence_s_length() {
        let (long, short) = (vec![1u32; 16], vec![2u32; 4]);
        let marks = [true; 16];
        let batch = Batch::new([(&long[..], &marks[..]), (&short[..], &marks[..4])]).unwrap();
        let noise = noise(&batch, 4, 8.0, 1, &Device::Cpu).unwrap().to_vec2::<f32>().unwrap();
        let most = |rows: &[Vec<f32>]| rows.iter().flatten().fold(0f32, |most, x| most.max(x.abs()));
        // 8 / √(16·4) and 8 / √(4·4).
        assert!((0.9..=1.0).contains(&most(&noise[..16])), "{}", most(&noise[..16]));
        assert!((1.5..=2.0).contains(&most(&noise[16..])), "{}", most(&noise[16..]));
    }
}
