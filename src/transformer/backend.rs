//! What a device does with a model's weights: the one place where the CPU's kernels and tensors differ.
//!
//! [`cpu`](super::cpu) implements [`Backend`] for weights in panels, [`dense`](super::dense) for weights as tensors. What
//! follows from the layout alone is [`StoredWeights`], the same for both.

use super::decode::{Forward, PackedAdapter};
use super::full_weights::{CriticWeights, FullWeights};
use super::score::{ActivationPolicy, Arena, Recorded, ScoreAdapter, ScoreBatch, Scored};
use super::stack::{Stack, WeightLayout};
use crate::formats::adapter::Adapter;
use crate::formats::spec::ModelSpec;
use crate::kernels::{KvPrecision, Precision};
use crate::transformer::error::Result;
use candle_core::Device;
use std::fmt::Debug;
use std::sync::Arc;

/// A model's weights on a device.
pub(super) trait StoredWeights: Debug + Send + Sync {
    /// The model's sizes.
    fn spec(&self) -> &ModelSpec;
    /// The device of the weights.
    fn device(&self) -> Device;
    /// Bytes of all weights.
    fn bytes(&self) -> usize;
    /// Bytes that one decode pass reads, whatever the number of its rows.
    fn decode_bytes(&self) -> usize;
    /// The type of the weights that the decode pass reads.
    fn precision(&self) -> Precision;
    /// Whether the score pass can read the weights.
    fn has_score(&self) -> bool;
}

impl<L: WeightLayout> StoredWeights for Stack<L> {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn device(&self) -> Device {
        self.layout.device()
    }

    fn bytes(&self) -> usize {
        self.bytes()
    }

    fn decode_bytes(&self) -> usize {
        self.decode_bytes()
    }

    fn precision(&self) -> Precision {
        self.layout.precision()
    }

    fn has_score(&self) -> bool {
        L::has_score(&self.head)
    }
}

/// The passes over a model's weights. Batches were validated by the caller.
pub(super) trait Backend: StoredWeights {
    /// A decoder with a KV cache of `blocks` blocks of precision `kv`.
    fn decoder(self: Arc<Self>, kv: KvPrecision, blocks: usize) -> Result<Box<dyn Forward + Send>>;
    /// Prepares `critic` for the decode pass.
    fn pack(&self, critic: &CriticWeights) -> Result<PackedAdapter>;
    /// A copy of all weights in f32, to be trained.
    fn copy_weights(&self) -> Result<FullWeights>;
    /// Prepares `adapter` for the score pass.
    fn score_adapter(&self, adapter: &Adapter) -> Result<ScoreAdapter>;
    /// Log-probabilities of a batch, of the base model without an adapter.
    fn score(&self, batch: ScoreBatch<'_>, adapter: Option<&ScoreAdapter>, arena: &mut Arena) -> Result<Scored>;
    /// The same, to be differentiated with respect to `adapter`.
    fn record<'a>(
        &'a self,
        batch: ScoreBatch<'_>,
        adapter: &'a ScoreAdapter,
        policy: ActivationPolicy,
        arena: &mut Arena,
    ) -> Result<Recorded<'a>>;
    /// The same, to be differentiated with respect to every weight.
    fn record_full<'a>(
        &'a self,
        batch: ScoreBatch<'_>,
        policy: ActivationPolicy,
        arena: &mut Arena,
    ) -> Result<Recorded<'a>>;
}
