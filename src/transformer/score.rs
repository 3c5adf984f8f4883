//! The `score` pass: log-probabilities of given ids, and their gradient with respect to an adapter or to all weights.
//!
//! Each prefix is computed once; each text behind it attends to the prefix and to itself, from the position after the
//! prefix on. How a device computes that, and the gradient, is its backend's. Gradients of frozen weights are never
//! computed.

mod adapter;
mod arena;
mod batch;
mod full_gradients;
mod gradients;
mod packed;
mod recorded;
#[cfg(test)]
mod tests;

pub use super::cpu::score::{activation_floats, widened_floats};
pub use adapter::ScoreAdapter;
pub(crate) use arena::Arena;
pub use batch::{ActivationPolicy, ScoreBatch, Scored};
pub use full_gradients::FullGradients;
pub use gradients::AdapterGradients;
pub use packed::Packed;
pub(crate) use packed::Segments;
pub use recorded::Recorded;
pub(super) use recorded::RecordedPass;

use super::Transformer;
use crate::formats::adapter::Adapter;
use crate::transformer::error::{Error, Result};

impl ScoreAdapter {
    /// Prepares `adapter` for the score pass over `model`.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn new(model: &Transformer, adapter: &Adapter) -> Result<Self> {
        model.backend().score_adapter(adapter)
    }
}

/// Log-probabilities of a batch under `adapter`, or under the base model without one.
///
/// # Errors
/// Where the model was loaded for decoding alone, a prefix or a text is empty, an id is unknown, or the device fails.
pub fn score(model: &Transformer, batch: ScoreBatch<'_>, adapter: Option<&ScoreAdapter>) -> Result<Scored> {
    score_in(model, batch, adapter, &mut Arena::default())
}

/// [`score`] in the memory of `arena`.
pub(crate) fn score_in(
    model: &Transformer,
    batch: ScoreBatch<'_>,
    adapter: Option<&ScoreAdapter>,
    arena: &mut Arena,
) -> Result<Scored> {
    validate(model, &batch)?;
    model.backend().score(batch, adapter, arena)
}

/// A pass over a batch that [`Recorded::backward`] can differentiate with respect to `adapter`.
///
/// # Errors
/// As [`score`].
pub fn record<'a>(
    model: &'a Transformer,
    batch: ScoreBatch<'_>,
    adapter: &'a ScoreAdapter,
    policy: ActivationPolicy,
) -> Result<Recorded<'a>> {
    record_in(model, batch, adapter, policy, &mut Arena::default())
}

/// [`record`] in the memory of `arena`.
pub(crate) fn record_in<'a>(
    model: &'a Transformer,
    batch: ScoreBatch<'_>,
    adapter: &'a ScoreAdapter,
    policy: ActivationPolicy,
    arena: &mut Arena,
) -> Result<Recorded<'a>> {
    validate(model, &batch)?;
    model.backend().record(batch, adapter, policy, arena)
}

/// A pass over a batch that [`Recorded::backward_full`] can differentiate with respect to every weight of `model`.
///
/// # Errors
/// As [`score`], and where the weights are not on the CPU.
pub fn record_full<'a>(
    model: &'a Transformer,
    batch: ScoreBatch<'_>,
    policy: ActivationPolicy,
) -> Result<Recorded<'a>> {
    record_full_in(model, batch, policy, &mut Arena::default())
}

/// [`record_full`] in the memory of `arena`.
pub(crate) fn record_full_in<'a>(
    model: &'a Transformer,
    batch: ScoreBatch<'_>,
    policy: ActivationPolicy,
    arena: &mut Arena,
) -> Result<Recorded<'a>> {
    validate(model, &batch)?;
    model.backend().record_full(batch, policy, arena)
}

/// Checks that `model` can score `batch`.
fn validate(model: &Transformer, batch: &ScoreBatch<'_>) -> Result<()> {
    if !model.has_score() {
        return Err(Error::DecodeOnly);
    }
    for packed in batch.packed {
        if packed.prefix.is_empty() || packed.texts.is_empty() || packed.texts.iter().any(|text| text.is_empty()) {
            return Err(Error::EmptyText);
        }
        if let Some(id) = packed.ids().find(|&id| id as usize >= model.spec().vocab) {
            return Err(Error::TokenId { id, vocab: model.spec().vocab });
        }
    }
    Ok(())
}
