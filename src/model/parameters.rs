//! What training changes, and the gradients for it.

use crate::Result;
use candle_core::Tensor;

/// The place of a trained tensor in [`Parameters`] and [`Gradients`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ParameterId(usize);

/// A trained tensor. Its storage is shared with the module that computes with it and updated in place.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Its name in the file that a run writes.
    pub name: String,
    /// f32
    pub value: Tensor,
}

/// Every trained tensor of a model, in a fixed order.
#[derive(Clone, Debug, Default)]
pub struct Parameters(Vec<Parameter>);

impl Parameters {
    /// Adds a tensor and returns its place.
    pub fn add(&mut self, name: impl Into<String>, value: &Tensor) -> ParameterId {
        self.0.push(Parameter { name: name.into(), value: value.clone() });
        ParameterId(self.0.len() - 1)
    }

    /// The tensors in order.
    pub fn iter(&self) -> impl Iterator<Item = &Parameter> {
        self.0.iter()
    }

    /// How many tensors there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is trained.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many values are trained.
    pub fn element_count(&self) -> usize {
        self.0.iter().map(|p| p.value.elem_count()).sum()
    }
}

/// The gradients of one optimizer step, summed over its micro-batches.
#[derive(Debug)]
pub struct Gradients(Vec<Option<Tensor>>);

impl Gradients {
    /// No gradient yet for any of `parameters`.
    pub fn new(parameters: &Parameters) -> Self {
        Self(vec![None; parameters.len()])
    }

    /// Adds `gradient` to what the parameter at `id` has so far.
    pub fn add(&mut self, id: ParameterId, gradient: Tensor) -> Result<()> {
        let slot = &mut self.0[id.0];
        *slot = Some(match slot.take() {
            Some(sum) => (sum + gradient)?,
            None => gradient,
        });
        Ok(())
    }

    /// Adds each of `rows`, `[tokens, width]`, to that row of the gradient that `ids` names; `like` is the parameter.
    ///
    /// A lookup's gradient is added in place of being made whole first: of an embedding that would be another copy.
    pub fn add_rows(&mut self, id: ParameterId, like: &Tensor, ids: &Tensor, rows: &Tensor) -> Result<()> {
        let slot = &mut self.0[id.0];
        let sum = slot.take().map_or_else(|| like.zeros_like(), Ok)?;
        *slot = Some(sum.index_add(ids, rows, 0)?);
        Ok(())
    }

    /// The sums in the order of the parameters; zeros where nothing arrived.
    pub fn into_tensors(self, parameters: &Parameters) -> Result<Vec<Tensor>> {
        let filled = self.0.into_iter().zip(parameters.iter());
        filled.map(|(g, p)| Ok(g.map_or_else(|| p.value.zeros_like(), Ok)?)).collect()
    }
}
