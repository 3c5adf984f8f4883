//! The `decode` pass: paged cache, rows with and without adapters in one batch, no graph.
//!
//! Knows flattened tokens and block tables; knows neither requests nor sampling.

mod adapter;
mod drawn;
mod forward;

pub use super::paging::{BLOCK_TOKENS, Batch, Span};
pub use adapter::PackedAdapter;
pub use drawn::{Drawn, RowSampling};
pub use forward::Forward;

use super::dense::decode::DenseDecoder;
use super::{Transformer, device};
use crate::formats::spec::ModelSpec;
use crate::kernels::attention::{Heads, KvCache};
use crate::kernels::{KvKind, KvPrecision};
use crate::transformer::error::Result;
use candle_core::Device;
use std::sync::Arc;

/// Base weights and KV cache, ready to compute steps. One thread owns it.
pub struct Decoder(Box<dyn Forward + Send>);

impl Decoder {
    /// A decoder with a KV cache of `blocks` blocks of the precision that goes with the weights, on their device.
    ///
    /// # Errors
    /// Where the device has no room for the cache.
    pub fn new(model: Arc<Transformer>, blocks: usize) -> Result<Self> {
        Self::with_kv(model, KvPrecision::Auto, blocks)
    }

    /// A decoder with a KV cache of `blocks` blocks of precision `kv`.
    ///
    /// # Errors
    /// Where the device has no room for such a cache, or does not compute with it.
    pub fn with_kv(model: Arc<Transformer>, kv: KvPrecision, blocks: usize) -> Result<Self> {
        Ok(Self(model.backend().clone().decoder(kv, blocks)?))
    }

    /// A decoder with as many blocks as fit `kv_cache_mib`.
    ///
    /// # Errors
    /// Where the device has no room for such a cache, or does not compute with it.
    pub fn sized(model: Arc<Transformer>, kv: KvPrecision, kv_cache_mib: usize) -> Result<Self> {
        let block_bytes = Self::block_bytes(model.spec(), kv.kind(model.precision()), &model.device());
        Self::with_kv(model, kv, (kv_cache_mib << 20) / block_bytes)
    }

    /// Bytes of one KV block over all layers. On a GPU the cache is bf16; on the CPU it is as `kind` says.
    pub fn block_bytes(spec: &ModelSpec, kind: KvKind, device: &Device) -> usize {
        if device.is_cpu() {
            return KvCache::block_bytes(spec.layers, Heads::of(spec), kind);
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

    fn draws(&self) -> bool {
        self.0.draws()
    }

    fn step(&mut self, batch: &Batch, logits: &mut Vec<f32>) -> Result<Vec<Option<Drawn>>> {
        self.0.step(batch, logits)
    }
}
