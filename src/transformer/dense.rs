//! The passes over tensors on any device: what a GPU runs.
//!
//! Weights are `(outputs, inputs)` in one type, bf16 on a GPU; activations and all sums are f32. Both passes use
//! operations that every device has, so that the CPU can run them too: that is how they are tested. On a GPU the decode
//! pass has kernels of its own for some of them.

mod adapter;
pub(super) mod attention;
#[cfg(feature = "cuda")]
mod cuda;
pub(crate) mod decode;
mod fused;
mod graph;
mod layout;
mod ops;
mod paged_attention;
mod product;
mod qkv;
mod score;
mod step_adapters;

pub(super) use layout::Dense;

use super::backend::Backend;
use super::decode::{Forward, PackedAdapter};
use super::device;
use super::full_weights::{CriticWeights, FullWeights};
use super::score::{ActivationPolicy, Arena, Recorded, ScoreAdapter, ScoreBatch, Scored};
use super::stack::Stack;
use crate::formats::adapter::Adapter;
use crate::kernels::KvPrecision;
use crate::transformer::error::{Error, Result};
use adapter::{AdapterVars, LinearFactors};
use decode::DenseDecoder;
use std::sync::Arc;

impl Stack<Dense> {
    fn cpu_only(&self) -> Error {
        Error::CpuOnly { device: device::name(&self.layout().device) }
    }

    fn refuse_ends(&self, adapter: &Adapter) -> Result<()> {
        match adapter.ends.is_empty() {
            true => Ok(()),
            false => Err(Error::EndsOnCpuOnly { device: device::name(&self.layout().device) }),
        }
    }
}

impl Backend for Stack<Dense> {
    fn decoder(self: Arc<Self>, kv: KvPrecision, blocks: usize) -> Result<Box<dyn Forward + Send>> {
        device::check_kv(kv, self.layout().device.location())?;
        Ok(Box::new(DenseDecoder::new(self, blocks)?))
    }

    fn pack(&self, critic: &CriticWeights) -> Result<PackedAdapter> {
        let adapter = critic.adapter().ok_or_else(|| self.cpu_only())?;
        self.refuse_ends(adapter)?;
        let factors = LinearFactors::new(adapter, self.spec(), &self.layout().device)?;
        let bytes = factors.bytes();
        Ok(PackedAdapter::beside_base(factors, bytes))
    }

    fn copy_weights(&self) -> Result<FullWeights> {
        Err(self.cpu_only())
    }

    fn score_adapter(&self, adapter: &Adapter) -> Result<ScoreAdapter> {
        self.refuse_ends(adapter)?;
        Ok(ScoreAdapter::new_for(AdapterVars::new(adapter, self)?))
    }

    fn score(&self, batch: ScoreBatch<'_>, adapter: Option<&ScoreAdapter>, _: &mut Arena) -> Result<Scored> {
        score::score(self, batch, adapter.map(ScoreAdapter::layout).transpose()?)
    }

    /// The tensor library keeps its own memory.
    fn record<'a>(
        &'a self,
        batch: ScoreBatch<'_>,
        adapter: &'a ScoreAdapter,
        policy: ActivationPolicy,
        _: &mut Arena,
    ) -> Result<Recorded<'a>> {
        let (scored, tape) = score::record(self, batch, adapter.layout()?, policy)?;
        Ok(Recorded::new(scored, tape))
    }

    fn record_full<'a>(&'a self, _: ScoreBatch<'_>, _: ActivationPolicy, _: &mut Arena) -> Result<Recorded<'a>> {
        Err(self.cpu_only())
    }
}

#[cfg(all(test, feature = "cuda"))]
mod cuda_tests;
#[cfg(test)]
mod tests;
