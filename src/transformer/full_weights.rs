//! A critic's trained weights: an adapter, or every weight of the model.
//!
//! A full weight set is stored once, in f32, in the panels that the score pass reads; gradients and moments are stored
//! likewise, block by block. Values are those that are computed with: a norm's weight is the factor it multiplies by.

mod file;
mod param_block;

pub(crate) use file::write_f32;
pub use file::{WEIGHTS_FILE, write};
pub(crate) use param_block::{NamedShape, ParamBlock, Vector};

use super::cpu::Panels;
use super::stack::{Stack, WeightLayout as _};
use crate::formats::WeightReader;
use crate::formats::adapter::Adapter;
use crate::formats::spec::ModelSpec;
use crate::kernels::{PassPrecisions, Precision};
use crate::transformer::error::Result;
use std::sync::Arc;

/// Every weight of a model, in f32.
#[derive(Debug)]
pub struct FullWeights(Arc<Stack<Panels>>);

impl FullWeights {
    /// Takes f32 weights that both passes can read.
    pub(super) fn new(stack: Stack<Panels>) -> Self {
        Self(Arc::new(stack))
    }

    /// Reads the weights of a model of `spec`.
    ///
    /// # Errors
    /// Where one is missing or of another shape.
    pub fn from_weights(spec: &ModelSpec, weights: &dyn WeightReader) -> Result<Self> {
        let layout = Panels { precisions: PassPrecisions::F32 };
        Ok(Self::new(Stack::load(spec, weights, layout, |layout, parts| layout.matrix(weights, parts))?))
    }

    /// The model's sizes.
    pub fn spec(&self) -> &ModelSpec {
        self.0.spec()
    }

    /// Another copy.
    pub fn copied(&self) -> Self {
        Self::new(self.0.copied())
    }

    /// The weights in panels.
    pub(super) fn stack(&self) -> &Arc<Stack<Panels>> {
        &self.0
    }

    /// The same weights for a decode pass of `precision`: shared if that is f32, else packed again.
    pub(crate) fn for_decode(&self, precision: Precision) -> Arc<Stack<Panels>> {
        match precision {
            Precision::F32 => self.0.clone(),
            narrow => Arc::new(self.0.for_decode(narrow)),
        }
    }

    /// Values of a block, as they are stored.
    pub(crate) fn block(&self, block: ParamBlock) -> &[f32] {
        self.0.block(block)
    }

    /// Calls `change` with the values of each block.
    ///
    /// # Panics
    /// Where the weights are shared.
    pub(crate) fn for_each_block_mut(&mut self, change: impl FnMut(ParamBlock, &mut [f32])) {
        Arc::get_mut(&mut self.0).expect("weights that are trained are not shared").for_each_block_mut(change);
    }

    /// The tensor `name`, row-major; `None` where the model has none of that name.
    pub fn tensor(&self, name: &str) -> Option<Vec<f32>> {
        let spec = self.spec();
        let holds = |block: &ParamBlock| block.tensors(spec).iter().any(|(own, _)| own == name);
        let block = ParamBlock::all(spec).into_iter().find(holds)?;
        block.unpack(spec, self.block(block)).into_iter().find(|((own, _), _)| own == name).map(|(_, data)| data)
    }
}

impl PartialEq for FullWeights {
    fn eq(&self, other: &Self) -> bool {
        let blocks = || ParamBlock::all(self.spec()).into_iter();
        self.spec() == other.spec() && blocks().all(|block| self.block(block) == other.block(block))
    }
}

/// A critic's trained weights: an adapter beside the base's weights, or a full weight set. Immutable, on the host;
/// clones share the memory.
#[derive(Clone, Debug, PartialEq)]
pub enum CriticWeights {
    /// Low-rank factors.
    Adapter(Arc<Adapter>),
    /// Every weight.
    Full(Arc<FullWeights>),
}

impl CriticWeights {
    /// The adapter, if it is one.
    pub fn adapter(&self) -> Option<&Adapter> {
        match self {
            Self::Adapter(adapter) => Some(adapter),
            Self::Full(_) => None,
        }
    }

    /// The weight set, if it is one.
    pub fn full(&self) -> Option<&FullWeights> {
        match self {
            Self::Full(weights) => Some(weights),
            Self::Adapter(_) => None,
        }
    }

    /// Whether both share the same memory.
    pub fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Adapter(one), Self::Adapter(two)) => Arc::ptr_eq(one, two),
            (Self::Full(one), Self::Full(two)) => Arc::ptr_eq(one, two),
            _ => false,
        }
    }
}

impl From<Adapter> for CriticWeights {
    fn from(adapter: Adapter) -> Self {
        Self::Adapter(Arc::new(adapter))
    }
}

impl From<FullWeights> for CriticWeights {
    fn from(weights: FullWeights) -> Self {
        Self::Full(Arc::new(weights))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
