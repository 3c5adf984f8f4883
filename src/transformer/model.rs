//! A loaded model: frozen weights on their device, one copy, shared by engine and learner.
//!
//! Everything that depends on the device is asked of its [`Backend`].

use super::backend::Backend;
use super::cpu::Panels;
use super::decode::PackedAdapter;
use super::dense::Dense;
use super::full_weights::{CriticWeights, FullWeights};
use super::packed_cache::PackedCache;
use super::stack::{Stack, WeightLayout as _};
use crate::formats::{WeightReader, spec::ModelSpec};
use crate::kernels::{PassPrecisions, Precision};
use crate::transformer::error::{Error, Result};
use candle_core::Device;
use std::sync::Arc;

/// The frozen weights of a model, of which there is one copy in memory.
#[derive(Clone, Debug)]
pub struct Transformer(Arc<dyn Backend>);

impl Transformer {
    /// Loads and packs every weight for the CPU, as the passes read them.
    ///
    /// # Errors
    /// Where a tensor is missing, unreadable or of another shape.
    pub fn load(spec: &ModelSpec, weights: &dyn WeightReader, precisions: PassPrecisions) -> Result<Self> {
        Self::load_cached(spec, weights, precisions, None)
    }

    /// As [`Transformer::load`], with matrices in int8 from `cache`.
    ///
    /// # Errors
    /// As [`Transformer::load`].
    pub(super) fn load_cached(
        spec: &ModelSpec,
        weights: &dyn WeightReader,
        precisions: PassPrecisions,
        cache: Option<&PackedCache>,
    ) -> Result<Self> {
        let stack = Stack::load(spec, weights, Panels { precisions }, |layout, parts| match cache {
            Some(cache) => cache.matrix(parts, precisions, || layout.matrix(weights, parts)),
            None => layout.matrix(weights, parts),
        });
        Ok(Self(Arc::new(stack?)))
    }

    /// Loads every weight as a tensor, for both passes.
    ///
    /// # Errors
    /// As [`Transformer::load`], and where the device fails.
    pub(crate) fn dense(spec: &ModelSpec, weights: &dyn WeightReader, layout: Dense) -> Result<Self> {
        if !spec.runs_on_gpus() {
            let device = super::device::name(&layout.device);
            return Err(Error::FamilyOnCpuOnly { family: spec.family.name(), device });
        }
        let stack = Stack::load(spec, weights, layout, |layout, parts| layout.matrix(weights, parts))?;
        // Another thread may compute with the weights, on a stream of its own.
        stack.layout.device.synchronize()?;
        Ok(Self(Arc::new(stack)))
    }

    /// The passes over its weights.
    pub(super) fn backend(&self) -> &Arc<dyn Backend> {
        &self.0
    }

    /// The model's sizes.
    pub fn spec(&self) -> &ModelSpec {
        self.0.spec()
    }

    /// The device of the weights.
    pub fn device(&self) -> Device {
        self.0.device()
    }

    /// Bytes of all weights.
    pub fn bytes(&self) -> usize {
        self.0.bytes()
    }

    /// Bytes that one decode pass reads, whatever the number of its rows.
    pub fn decode_bytes(&self) -> usize {
        self.0.decode_bytes()
    }

    /// The type of the weights that the decode pass reads.
    pub fn precision(&self) -> Precision {
        self.0.precision()
    }

    /// Whether the score pass can read the weights.
    pub fn has_score(&self) -> bool {
        self.0.has_score()
    }

    /// Prepares `critic` for the decode pass: an adapter in the layout of these weights, or a full weight set on the same
    /// device and in the same precision.
    ///
    /// # Errors
    /// Where the device fails, or is not the CPU and `critic` has weights of its own.
    pub fn pack(&self, critic: &CriticWeights) -> Result<PackedAdapter> {
        self.0.pack(critic)
    }
}

impl FullWeights {
    /// A copy of the weights of `model`.
    ///
    /// # Errors
    /// Where they are not on the CPU, or were loaded for the decode pass alone.
    pub fn copy_of(model: &Transformer) -> Result<Self> {
        model.0.copy_weights()
    }

    /// The weights as a model that shares their memory.
    pub fn transformer(&self) -> Transformer {
        Transformer(self.stack().clone())
    }
}
