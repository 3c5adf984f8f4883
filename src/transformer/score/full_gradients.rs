//! Gradients of every weight of a model, stored as the weights are. Knows no pass.

use crate::formats::spec::ModelSpec;
use crate::transformer::full_weights::{NamedShape, ParamBlock};
use std::collections::BTreeMap;

/// Gradients of every weight of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct FullGradients {
    blocks: BTreeMap<ParamBlock, Vec<f32>>,
    /// The model's epsilon of RMSNorm, which a norm's gradient needs.
    pub(in crate::transformer) norm_epsilon: f32,
}

impl FullGradients {
    /// Zeros, for a model of `spec`.
    pub fn zeros(spec: &ModelSpec) -> Self {
        let blocks = ParamBlock::all(spec).into_iter().map(|block| (block, vec![0.0; block.len(spec)])).collect();
        Self { blocks, norm_epsilon: spec.norm_epsilon }
    }

    /// Each tensor by its Hugging Face name, with its shape and its gradient in row-major order.
    pub fn tensors(&self, spec: &ModelSpec) -> impl Iterator<Item = (String, Vec<usize>, Vec<f32>)> {
        let of = |(block, values): (&ParamBlock, &Vec<f32>)| {
            block.unpack(spec, values).into_iter().map(|((name, shape), data): (NamedShape, _)| (name, shape, data))
        };
        self.blocks.iter().flat_map(of)
    }

    /// The gradient of a block, stored as its weights are.
    pub(crate) fn block_mut(&mut self, block: ParamBlock) -> &mut [f32] {
        self.blocks.get_mut(&block).expect("the model has such a block")
    }

    /// The gradients of all blocks, stored as the weights are.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = &[f32]> {
        self.blocks.values().map(Vec::as_slice)
    }

    /// Sets every gradient to 0.
    pub fn zero(&mut self) {
        self.blocks.values_mut().for_each(|values| values.fill(0.0));
    }
}
