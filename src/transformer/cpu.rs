//! The passes over the CPU's kernels: weights in panels, attention of its own, a backward pass that is written out.
//!
//! Knows no tensor library.

mod critic;
mod decode;
mod ends;
mod lora;
mod panels;
mod params;
pub(super) mod score;
mod weight_sets;

pub(super) use panels::Panels;

use super::backend::Backend;
use super::decode::{Forward, PackedAdapter};
use super::full_weights::{CriticWeights, FullWeights};
use super::score::{ActivationPolicy, Arena, Recorded, ScoreAdapter, ScoreBatch, Scored};
use super::stack::Stack;
use crate::formats::adapter::Adapter;
use crate::kernels::{KvPrecision, Precision};
use crate::transformer::error::{Error, Result};
use critic::CpuCritic;
use decode::CpuDecoder;
use ends::EndBranches;
use score::{PassTape, ScoreLora};
use std::sync::Arc;

impl Backend for Stack<Panels> {
    fn decoder(self: Arc<Self>, kv: KvPrecision, blocks: usize) -> Result<Box<dyn Forward + Send>> {
        Ok(Box::new(CpuDecoder::new(self, kv, blocks)?))
    }

    fn pack(&self, critic: &CriticWeights) -> Result<PackedAdapter> {
        Ok(match critic {
            CriticWeights::Adapter(adapter) => {
                self.check_brought(adapter)?;
                PackedAdapter::new(adapter, self.spec())
            }
            CriticWeights::Full(weights) => {
                let served = weights.for_decode(self.layout().precisions.decode);
                let bytes = served.bytes();
                PackedAdapter::replacing_base(CpuCritic::Full(served), bytes)
            }
        })
    }

    fn copy_weights(&self) -> Result<FullWeights> {
        match self.layout().precisions.score {
            None => return Err(Error::DecodeOnly),
            Some(Precision::F32) => {}
            Some(precision) => return Err(Error::NarrowBase { precision }),
        }
        if !self.spec().trains_whole() {
            return Err(Error::NotTrainedWhole { family: self.spec().family.name() });
        }
        Ok(FullWeights::new(self.copied()))
    }

    fn score_adapter(&self, adapter: &Adapter) -> Result<ScoreAdapter> {
        let (rank, scale) = (adapter.config.rank, adapter.config.scale());
        let lora = ScoreLora::new(self.spec(), rank, scale, &adapter.factors);
        let Some(ends) = EndBranches::new(adapter, self.spec().hidden) else { return Ok(ScoreAdapter::new_for(lora)) };
        self.check_brought(adapter)?;
        if !self.has_score() {
            return Err(Error::DecodeOnly);
        }
        let head = ends.merged_head(self.head());
        Ok(ScoreAdapter::new_for(lora.with_ends(ends, head)))
    }

    fn score(&self, batch: ScoreBatch<'_>, adapter: Option<&ScoreAdapter>, arena: &mut Arena) -> Result<Scored> {
        let lora = adapter.map(ScoreAdapter::layout).transpose()?;
        Ok(PassTape::new(self, batch, lora, None, arena)?.0)
    }

    fn record<'a>(
        &'a self,
        batch: ScoreBatch<'_>,
        adapter: &'a ScoreAdapter,
        policy: ActivationPolicy,
        arena: &mut Arena,
    ) -> Result<Recorded<'a>> {
        let (scored, tape) = PassTape::new(self, batch, Some(adapter.layout()?), Some(policy), arena)?;
        Ok(Recorded::new(scored, tape))
    }

    fn record_full<'a>(
        &'a self,
        batch: ScoreBatch<'_>,
        policy: ActivationPolicy,
        arena: &mut Arena,
    ) -> Result<Recorded<'a>> {
        let (scored, tape) = PassTape::new(self, batch, None, Some(policy), arena)?;
        Ok(Recorded::new(scored, tape))
    }
}
