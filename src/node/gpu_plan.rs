//! What a node would need and reach on a GPU, by arithmetic alone: a model to be held against measurements.
//!
//! Memory and operations are those of `transformer::gpu_costs`; a card's rates are its data sheet's, times the shares below.
//! No device is opened and no weights are read.

pub(crate) mod card;
mod memory;
pub(crate) mod shapes;
mod speed;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
pub(crate) mod workload;

use crate::formats::spec::ModelSpec;
use card::Card;
pub(crate) use memory::Memory;
use serde::Serialize;
#[cfg(test)]
use speed::Bound;
pub(crate) use speed::{DECODED, Figure, Speed};
use workload::Workload;

/// The plan of one model on one card.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct GpuPlan {
    /// The model's name.
    pub(crate) model: String,
    /// Its weights, a tied head once.
    pub(crate) parameters: usize,
    /// What it takes.
    pub(crate) memory: Memory,
    /// What it reaches.
    pub(crate) speed: Speed,
}

impl GpuPlan {
    /// The plan of `spec` on `card` with the sizes of `workload`.
    pub(crate) fn new(model: &str, spec: &ModelSpec, card: &Card, workload: &Workload) -> Self {
        Self {
            model: model.to_owned(),
            parameters: spec.parameters(),
            memory: Memory::new(spec, card, workload),
            speed: Speed::new(spec, card, workload),
        }
    }
}
