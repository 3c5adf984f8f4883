//! What a backward pass differentiates by: an adapter's factors or every weight.

use crate::formats::spec::ModelSpec;
use crate::kernels::ops;
use crate::kernels::{add_row, add_weight_gradient};
use crate::transformer::full_weights::ParamBlock;
use crate::transformer::score::{AdapterGradients, FullGradients};
use crate::transformer::stack::Linear;

/// The gradients that a backward pass computes.
pub(super) enum GradTarget<'a> {
    /// Those of an adapter's factors.
    Adapter(&'a mut AdapterGradients),
    /// Those of every weight.
    Full(&'a mut FullGradients),
}

impl GradTarget<'_> {
    /// The gradients of every weight, if those are computed.
    pub(super) fn full(&mut self) -> Option<&mut FullGradients> {
        match self {
            Self::Full(gradients) => Some(gradients),
            Self::Adapter(_) => None,
        }
    }

    /// Adds the gradient of a norm's weight: `x` is its input, `dy` the gradient of its output.
    pub(super) fn norm(&mut self, block: ParamBlock, x: &[f32], dy: &[f32]) {
        if let Some(gradients) = self.full() {
            let epsilon = gradients.norm_epsilon;
            ops::norm_weight_backward(x, dy, gradients.block_mut(block), epsilon);
        }
    }
}

impl FullGradients {
    /// Adds the gradient of a linear: `x` is its input, `dy` the gradient of its output.
    pub(super) fn linear(
        &mut self,
        (layer, linear): (usize, Linear),
        [x, dy]: [&[f32]; 2],
        [inputs, outputs]: [usize; 2],
    ) {
        add_weight_gradient(x, inputs, dy, outputs, self.block_mut(ParamBlock::Linear(layer, linear)));
    }

    /// Adds the gradient of the embeddings of `ids`; `d` is that of the residual stream before the first layer.
    pub(super) fn embedding(&mut self, ids: &[u32], d: &[f32], spec: &ModelSpec) {
        let to = self.block_mut(ParamBlock::Embedding);
        for (&id, d) in ids.iter().zip(d.chunks_exact(spec.hidden)) {
            add_row(d, spec.embedding_scale, id as usize, to);
        }
    }
}
