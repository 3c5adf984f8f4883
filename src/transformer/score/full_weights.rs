//! The score pass where every weight is trained: what the backward pass finds of each of them, and the head's second turn.
//!
//! With frozen weights the head is done when the forward pass is. Here its weight wants `dlogits^T hidden`, and
//! `dlogits` wants to know what each log-probability weighs: so the vocabulary meets the rows again in the backward pass.
//! Gradients lie as the weights do, and are added to what is there.

use super::layer::Walk;
use super::{ActivationPolicy, AdapterGradients, Arena, Graph, Record, Recorded, ScoreBatch, head};
use crate::formats::spec::ModelSpec;
use crate::formats::{Error, Result};
use crate::kernels::ops;
use crate::kernels::{add_row, add_weight_gradient};
use crate::transformer::device;
use crate::transformer::full_weights::{Named, ParamBlock, Vector};
use crate::transformer::{Linear, Placed, Transformer};
use std::collections::BTreeMap;

/// Gradients of every weight of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct FullGradients {
    blocks: BTreeMap<ParamBlock, Vec<f32>>,
    epsilon: f32,
}

impl FullGradients {
    /// Nothing yet, for a model of `spec`.
    pub fn zeros(spec: &ModelSpec) -> Self {
        let blocks = ParamBlock::all(spec).into_iter().map(|block| (block, vec![0.0; block.len(spec)])).collect();
        Self { blocks, epsilon: spec.norm_epsilon }
    }

    /// Each tensor by its Hugging Face name, with its shape and its gradient in row-major order.
    pub fn tensors(&self, spec: &ModelSpec) -> impl Iterator<Item = (String, Vec<usize>, Vec<f32>)> {
        let of = |(block, values): (&ParamBlock, &Vec<f32>)| {
            block.unpack(spec, values).into_iter().map(|((name, shape), data): (Named, _)| (name, shape, data))
        };
        self.blocks.iter().flat_map(of)
    }

    /// The gradient of a slot, as the weights lie.
    pub(crate) fn block_mut(&mut self, block: ParamBlock) -> &mut [f32] {
        self.blocks.get_mut(&block).expect("the model has such a slot")
    }

    /// Every slot's, as the weights lie.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = &[f32]> {
        self.blocks.values().map(Vec::as_slice)
    }

    /// Forgets what was found.
    pub fn zero(&mut self) {
        self.blocks.values_mut().for_each(|values| values.fill(0.0));
    }
}

/// What a backward pass looks for.
pub(super) enum GradTarget<'a> {
    /// The gradients of an adapter's factors.
    Factors(&'a mut AdapterGradients),
    /// Those of every weight.
    All(&'a mut FullGradients),
}

impl GradTarget<'_> {
    /// Notes a norm's weight, which made `x` to what has the gradient `dy`.
    pub(super) fn norm(&mut self, block: ParamBlock, x: &[f32], dy: &[f32]) {
        if let Self::All(all) = self {
            let epsilon = all.epsilon;
            ops::norm_weight_backward(x, dy, all.block_mut(block), epsilon);
        }
    }

    /// Notes the norms of the heads of queries and keys: `qkv` is what they normalised, `d` the gradient of what was then
    /// turned by position.
    pub(super) fn heads(&mut self, walk: &Walk<'_>, layer: usize, qkv: &[f32], d: &[f32]) {
        let Self::All(all) = self else { return };
        let spec = walk.model.spec();
        if !spec.block.qk_norm {
            return;
        }
        let (angles, dim, width) = (walk.angles.of(spec, layer), spec.head_dim, d.len() / walk.rows);
        let mut dy = vec![0.0; dim];
        for (row, (qkv, d)) in qkv.chunks_exact(width).zip(d.chunks_exact(width)).enumerate() {
            let (cos, sin) = angles.row(row);
            let heads = qkv.chunks_exact(dim).zip(d.chunks_exact(dim)).take(spec.heads + spec.kv_heads);
            for (head, (x, d)) in heads.enumerate() {
                dy.copy_from_slice(d);
                ops::rotate_head(&mut dy, cos, sin, dim / 2, -1.0);
                let vector = if head < spec.heads { Vector::QNorm } else { Vector::KNorm };
                let epsilon = all.epsilon;
                ops::norm_weight_backward(x, &dy, all.block_mut(ParamBlock::Vector(layer, vector)), epsilon);
            }
        }
    }

    /// Notes the bias of queries, keys and values; `d` is their gradient.
    pub(super) fn bias(&mut self, walk: &Walk<'_>, layer: usize, d: &[f32]) {
        if let Self::All(all) = self
            && walk.model.spec().block.qkv_bias
        {
            let sum = all.block_mut(ParamBlock::Vector(layer, Vector::QkvBias));
            d.chunks_exact(sum.len()).for_each(|row| ops::add_part(row, sum));
        }
    }
}

impl FullGradients {
    /// Notes a linear that made its result of `x`; `dy` is the result's gradient.
    pub(super) fn linear(&mut self, at: (usize, Linear), [x, dy]: [&[f32]; 2], [inputs, outputs]: [usize; 2]) {
        add_weight_gradient(x, inputs, dy, outputs, self.block_mut(ParamBlock::Linear(at.0, at.1)));
    }

    /// Notes the embeddings of `ids`; `d` is the gradient of the residual stream that they began.
    fn embedding(&mut self, ids: &[u32], d: &[f32], spec: &ModelSpec) {
        let to = self.block_mut(ParamBlock::Embedding);
        for (&id, d) in ids.iter().zip(d.chunks_exact(spec.hidden)) {
            add_row(d, spec.embedding_scale, id as usize, to);
        }
    }
}

/// What the backward pass over all weights reads beside the rest.
pub(super) struct HeadInputs {
    /// Ids of the batch, `(rows)`.
    ids: Vec<u32>,
    /// Ids that are predicted, `(targets)`.
    targets: Vec<u32>,
    /// What logits are multiplied by.
    scale: f32,
}

impl HeadInputs {
    pub(super) fn new(ids: &[u32], targets: &[u32], scale: f32) -> Self {
        Self { ids: ids.to_vec(), targets: targets.to_vec(), scale }
    }
}

impl Record<'_> {
    /// Meets the vocabulary again: notes the head's gradient, and turns the normalised states that the forward pass left
    /// into the gradient of the weighted sum with respect to them.
    pub(super) fn head_backward(&mut self, weights: &[f32], all: &mut FullGradients, space: &mut Arena) {
        let Some(HeadInputs { targets, scale, .. }) = &self.spoken else { return };
        let spec = self.model.spec();
        let block = if spec.tied { ParamBlock::Embedding } else { ParamBlock::Head };
        let weight = self.model.head().score();
        head::backward(weight, &mut self.slopes, (targets, weights), *scale, all.block_mut(block), &mut space.logits);
    }

    /// Notes the embeddings, once `d` is the gradient of the first residual stream.
    pub(super) fn embedding_backward(&self, d: &[f32], all: &mut FullGradients) {
        if let Some(HeadInputs { ids, .. }) = &self.spoken {
            all.embedding(ids, d, self.model.spec());
        }
    }
}

/// A pass over a batch that [`Recorded::backward_full`] can differentiate with respect to every weight of `model`.
///
/// # Errors
/// As [`score`](super::score), and where the weights do not lie on the CPU.
pub fn record_full<'a>(model: &'a Transformer, batch: ScoreBatch<'_>, keep: ActivationPolicy) -> Result<Recorded<'a>> {
    record_full_in(model, batch, keep, &mut Arena::default())
}

/// [`record_full`] in the memory of `space`.
pub(crate) fn record_full_in<'a>(
    model: &'a Transformer,
    batch: ScoreBatch<'_>,
    keep: ActivationPolicy,
    space: &mut Arena,
) -> Result<Recorded<'a>> {
    let Placed::Panels(stack) = super::check(model, &batch)? else {
        return Err(Error::CpuOnly { device: device::name(&model.device()) });
    };
    let (scored, record) = Record::new(stack, batch, None, Some(keep), space)?;
    Ok(Recorded { scored, graph: Graph::Panels(Box::new(record)) })
}

impl Recorded<'_> {
    /// Adds the gradient of `sum_i weights_i log_probs_i` with respect to every weight to `gradients`.
    ///
    /// # Errors
    /// Where the pass was recorded for an adapter.
    ///
    /// # Panics
    /// Where there are not as many weights as log-probabilities, or `gradients` are of another model.
    pub fn backward_full(self, weights: &[f32], gradients: &mut FullGradients) -> Result<()> {
        self.backward_full_in(weights, gradients, &mut Arena::default())
    }

    /// [`Recorded::backward_full`] in the memory of `space`.
    pub(crate) fn backward_full_in(
        self,
        weights: &[f32],
        gradients: &mut FullGradients,
        space: &mut Arena,
    ) -> Result<()> {
        assert_eq!(weights.len(), self.scored.log_probs.len(), "one weight a log-probability");
        match self.graph {
            Graph::Panels(record) if record.spoken.is_some() => {
                record.backward(weights, &mut GradTarget::All(gradients), space);
                Ok(())
            }
            _ => Err(Error::OtherForm),
        }
    }
}
