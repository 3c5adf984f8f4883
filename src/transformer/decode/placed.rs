//! The decoder as the engine owns it: over whatever form the weights have on their device.

use super::{Batch, Forward, PanelsDecoder};
use crate::formats::Result;
use crate::formats::spec::ModelSpec;
use crate::kernels::Precision;
use crate::kernels::attention::{Heads, KvCache};
use crate::transformer::dense::decode::DenseDecoder;
use crate::transformer::device;
use crate::transformer::{Placed, Transformer};
use candle_core::Device;
use std::sync::Arc;

/// Base weights and KV cache, ready to compute steps. One thread owns it.
pub struct Decoder(Backend);

enum Backend {
    Panels(PanelsDecoder),
    Dense(DenseDecoder),
}

impl Decoder {
    /// A decoder with a KV cache of `blocks` blocks, where the weights are.
    ///
    /// # Errors
    /// Where the device has no room for the cache.
    pub fn new(model: Arc<Transformer>, blocks: usize) -> Result<Self> {
        Ok(Self(match &model.0 {
            Placed::Panels(stack) => Backend::Panels(PanelsDecoder::new(stack.clone(), blocks)),
            Placed::Dense(stack) => Backend::Dense(DenseDecoder::new(stack.clone(), blocks)?),
        }))
    }

    /// A decoder with as many blocks as `kv_cache_mib` holds.
    ///
    /// # Errors
    /// Where the device has no room for the cache.
    pub fn sized(model: Arc<Transformer>, kv_cache_mib: usize) -> Result<Self> {
        let block_bytes = Self::block_bytes(model.spec(), model.precision(), &model.device());
        Self::new(model, (kv_cache_mib << 20) / block_bytes)
    }

    /// Bytes of one KV block over all layers: on a GPU in bf16; on the CPU in bf16 where the decode pass's weights are
    /// narrower than f32, else in f32.
    pub fn block_bytes(spec: &ModelSpec, precision: Precision, device: &Device) -> usize {
        if device.is_cpu() {
            return KvCache::block_bytes(spec.layers, Heads::of(spec), precision.is_narrow());
        }
        DenseDecoder::block_bytes(spec, device::dtype(device))
    }
}

impl Forward for Decoder {
    fn blocks(&self) -> usize {
        match &self.0 {
            Backend::Panels(decoder) => decoder.blocks(),
            Backend::Dense(decoder) => decoder.blocks(),
        }
    }

    fn vocab(&self) -> usize {
        match &self.0 {
            Backend::Panels(decoder) => decoder.vocab(),
            Backend::Dense(decoder) => decoder.vocab(),
        }
    }

    fn copy_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<()> {
        match &mut self.0 {
            Backend::Panels(decoder) => decoder.copy_blocks(pairs),
            Backend::Dense(decoder) => decoder.copy_blocks(pairs),
        }
    }

    fn step(&mut self, batch: &Batch, logits: &mut Vec<f32>) -> Result<()> {
        match &mut self.0 {
            Backend::Panels(decoder) => decoder.step(batch, logits),
            Backend::Dense(decoder) => decoder.step(batch, logits),
        }
    }
}
