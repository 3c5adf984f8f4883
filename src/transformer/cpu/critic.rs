//! A critic as the CPU's decode pass reads it.

use super::lora::DecodeLora;
use super::panels::Panels;
use crate::formats::adapter::Adapter;
use crate::formats::spec::ModelSpec;
use crate::transformer::decode::PackedAdapter;
use crate::transformer::stack::Stack;
use std::sync::Arc;

/// An adapter beside the base's weights, or weights that replace them.
#[derive(Debug)]
pub(super) enum CpuCritic {
    /// Low-rank factors.
    Adapter(DecodeLora),
    /// A full weight set in the decoder's precision.
    Full(Arc<Stack<Panels>>),
}

impl CpuCritic {
    /// The factors, where the critic is an adapter.
    pub(super) fn lora(&self) -> Option<&DecodeLora> {
        match self {
            Self::Adapter(lora) => Some(lora),
            Self::Full(_) => None,
        }
    }

    /// The weights that replace the base's, where it has them.
    pub(super) fn weights(&self) -> Option<&Arc<Stack<Panels>>> {
        match self {
            Self::Full(weights) => Some(weights),
            Self::Adapter(_) => None,
        }
    }
}

impl PackedAdapter {
    /// Packs `adapter`, whose shapes were checked against `spec` when it was made, for the CPU's kernels.
    pub fn new(adapter: &Adapter, spec: &ModelSpec) -> Self {
        Self::beside_base(CpuCritic::Adapter(DecodeLora::new(adapter, spec)), adapter.bytes())
    }
}
