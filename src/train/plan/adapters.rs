//! What LoRA and DoRA add to a plan.

use super::{Projection, Shape};

/// LoRA adapters.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapters {
    pub targets: Vec<Target>,
    /// Whether each has magnitudes, too: one number for each output feature, trained, and the norm of that row of the weight.
    pub dora: bool,
}

/// The adapters of one projection in all layers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    pub projection: Projection,
    /// The mean rank over the layers; a layer without an adapter counts as 0.
    pub rank: f64,
    /// The share of the layers that have one.
    pub share: f64,
}

impl Adapters {
    /// Adapters of one rank beside these projections of every layer.
    pub fn new(rank: u64, projections: &[Projection]) -> Self {
        let target = |projection: &Projection| Target { projection: *projection, rank: rank as f64, share: 1.0 };
        Self { targets: projections.iter().map(target).collect(), dora: false }
    }

    /// A's and B's numbers in all layers.
    pub(super) fn low_rank(&self, shape: &Shape) -> u64 {
        let of = |target: &Target| {
            let (input, output) = target.projection.features(shape);
            target.rank * (shape.layers * (input + output)) as f64
        };
        self.targets.iter().map(of).sum::<f64>().round() as u64
    }

    /// DoRA's magnitudes in all layers.
    pub(super) fn magnitudes(&self, shape: &Shape) -> u64 {
        let of = |target: &Target| target.share * (shape.layers * target.projection.features(shape).1) as f64;
        if self.dora { self.targets.iter().map(of).sum::<f64>().round() as u64 } else { 0 }
    }
}
