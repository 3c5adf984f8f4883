//! The `decode` pass: paged cache, rows with and without adapters in one batch, no graph.
//!
//! Knows flattened tokens and block tables; knows neither requests nor sampling.

mod adapter;
mod forward;

pub use super::paging::{BLOCK_TOKENS, Batch, Span};
pub use adapter::PackedAdapter;
pub use forward::Forward;

use super::dense::decode::DenseDecoder;
use super::{Transformer, device};
use crate::formats::spec::ModelSpec;
use crate::kernels::Precision;
use crate::kernels::attention::{Heads, KvCache};
use crate::transformer::error::Result;
use candle_core::Device;
use std::sync::Arc;

/// Base weights and KV cache, ready to compute steps. One thread owns it.
pub struct Decoder(Box<dyn Forward + Send>);

impl Decoder {
    /// A decoder with a KV cache of `blocks` blocks, on the device of the weights.
    ///
    /// # Errors
    /// Where the device has no room for the cache.
    pub fn new(model: Arc<Transformer>, blocks: usize) -> Result<Self> {
        Ok(Self(model.backend().clone().decoder(blocks)?))
    }

    /// A decoder with as many blocks as fit `kv_cache_mib`.
    ///
    /// # Errors
    /// Where the device has no room for the cache.
    pub fn sized(model: Arc<Transformer>, kv_cache_mib: usize) -> Result<Self> {
        let block_bytes = Self::block_bytes(model.spec(), model.precision(), &model.device());
        Self::new(model, (kv_cache_mib << 20) / block_bytes)
    }

    /// Bytes of one KV block over all layers. On a GPU the cache is bf16; on the CPU it is bf16 where the decode pass's
    /// weights are narrower than f32, else f32.
    pub fn block_bytes(spec: &ModelSpec, precision: Precision, device: &Device) -> usize {
        if device.is_cpu() {
            return KvCache::block_bytes(spec.layers, Heads::of(spec), precision.is_narrow());
        }
        DenseDecoder::block_bytes(spec, device::dtype(device))
    }
}

impl Forward for Decoder {
    fn blocks(&self) -> usize {
        self.0.blocks()
    }

    fn vocab(&self) -> usize {
        self.0.vocab()
    }

    fn copy_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<()> {
        self.0.copy_blocks(pairs)
    }

    fn step(&mut self, batch: &Batch, logits: &mut Vec<f32>) -> Result<()> {
        self.0.step(batch, logits)
    }
}
