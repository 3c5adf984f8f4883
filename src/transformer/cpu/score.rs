//! The `score` pass on the CPU: the backward pass is written out, layer by layer, over the panels of frozen weights that
//! the forward pass reads.
//!
//! With frozen weights the head is done when the forward pass is. Where every weight is trained, the head's gradient
//! depends on the weight of each log-probability, so the backward pass computes the logits again.

mod attention;
mod grad_target;
mod head;
mod layer;
mod lora;
mod rows;

pub(super) use lora::ScoreLora;

use super::panels::Panels;
use crate::formats::spec::ModelSpec;
use crate::kernels::{MatmulPrecision, PassPrecisions, Precision, Weight, ops, thread_pool};
use crate::transformer::error::{Error, Result};
use crate::transformer::full_weights::ParamBlock;
use crate::transformer::rope::Tables;
use crate::transformer::score::{
    ActivationPolicy, AdapterGradients, Arena, FullGradients, RecordedPass, ScoreBatch, Scored,
};
use crate::transformer::stack::{Linear, Stack};
use attention::{QueryBlocks, SequenceRows};
use grad_target::GradTarget;
use layer::{LayerContext, LayerTape};
use rows::BatchRows;
use std::collections::BTreeSet;

/// Most floats that a recorded pass over `tokens` tokens allocates, an adapter of `rank` on every linear included: what a
/// memory plan counts. Rank 0 means that all weights are trained; then the `targets` predicted ids count.
pub fn activation_floats(
    spec: &ModelSpec,
    rank: usize,
    tokens: usize,
    targets: usize,
    policy: ActivationPolicy,
) -> usize {
    let layer = layer::tape_floats(spec, rank);
    let kept = match policy {
        ActivationPolicy::KeepAll => spec.layers * layer,
        ActivationPolicy::Recompute => spec.layers * spec.hidden + layer,
    };
    // The head's rows have room for those of every token.
    let head = match rank {
        0 => head::working_floats(spec.vocab, targets),
        _ => tokens * head::log_probs_floats(spec.vocab, spec.hidden),
    };
    tokens * (kept + layer::working_floats(spec, rank) + spec.hidden) + head
}

/// Floats into which a pass over at most `rows` rows widens the weights, where it does not hold them in f32, and packs the
/// operands of products in bf16.
pub fn widened_floats(spec: &ModelSpec, precisions: PassPrecisions, rows: usize) -> usize {
    let size = |linear: Linear| {
        let sizes = linear.projections().iter().map(|projection| projection.sizes(spec));
        sizes.map(|(inputs, outputs)| inputs * outputs).sum::<usize>()
    };
    let linear = Linear::ALL.into_iter().map(size).max().unwrap_or(0);
    let widened = match precisions.score {
        None | Some(Precision::F32) => 0,
        Some(_) => linear + thread_pool::threads() * head::block_floats(spec.hidden),
    };
    let packed = match precisions.matmul.supported() {
        MatmulPrecision::F32 => 0,
        // Two to a float, the rows as wide as the widest gradient.
        MatmulPrecision::Bf16 => (linear + rows * 2 * spec.intermediate).div_ceil(2),
    };
    widened + packed
}

/// What the backward pass reads of a forward pass.
pub(super) struct PassTape<'a> {
    model: &'a Stack<Panels>,
    lora: Option<&'a ScoreLora>,
    sequences: Vec<SequenceRows>,
    positions: Vec<usize>,
    layers: Vec<LayerTape>,
    policy: Option<ActivationPolicy>,
    /// Rows that predict a target, each once, in ascending order: the only ones that the last layer computes to the end.
    output_rows: Vec<usize>,
    /// The residual stream after the last layer, `(output rows, hidden)`.
    last: Vec<f32>,
    /// For each target the index of the output row that predicts it.
    predicting: Vec<usize>,
    /// For each target the gradient of its log-probability with respect to that row's normalised state, `(targets, hidden)`;
    /// where the head is trained, that state itself.
    d_hidden: Vec<f32>,
    /// What the head's backward pass reads, where all weights are trained.
    head_inputs: Option<HeadInputs>,
}

/// What the gradients of head and embedding read.
struct HeadInputs {
    /// Ids of the batch, `(rows)`.
    ids: Vec<u32>,
    /// Ids that are predicted, `(targets)`.
    targets: Vec<u32>,
    /// What logits are multiplied by.
    scale: f32,
}

impl<'a> PassTape<'a> {
    /// The forward pass over `batch`. It keeps what a gradient needs if there is a `policy`: with respect to the adapter
    /// `lora`, or without one to every weight.
    pub(super) fn new(
        model: &'a Stack<Panels>,
        batch: ScoreBatch<'_>,
        lora: Option<&'a ScoreLora>,
        policy: Option<ActivationPolicy>,
        arena: &mut Arena,
    ) -> Result<(Scored, Self)> {
        let BatchRows { sequences, positions, ids, targets, mut predicting, first_targets } = BatchRows::new(&batch);
        let (spec, scale) = (model.spec(), 1.0 / batch.temperature);
        arena.begin(ids.len());
        let mut x = arena.take(ids.len(), spec.hidden);
        model.embed(&ids, Weight::score_row, &mut x)?;
        if let Some(ends) = lora.and_then(ScoreLora::ends) {
            ends.add_embeddings(&ids, spec.embedding_scale, &mut x);
        }

        let is_full = policy.is_some() && lora.is_none();
        let mut output_rows = predicting.clone();
        output_rows.sort_unstable();
        output_rows.dedup();
        predicting.iter_mut().for_each(|row| *row = output_rows.partition_point(|before| before < row));
        let head_inputs = is_full.then(|| HeadInputs { ids, targets: targets.clone(), scale });
        let (layers, last, d_hidden) = (vec![], vec![], vec![]);
        let mut tape = Self {
            model,
            lora,
            sequences,
            positions,
            layers,
            policy,
            output_rows,
            last,
            predicting,
            d_hidden,
            head_inputs,
        };
        let x = tape.layers_forward(x, arena);
        let mut hidden = tape.predicting_states(&x, arena);
        let state = |&first: &usize| hidden[first * spec.hidden..][..spec.hidden].to_vec();
        let prefixes = first_targets.iter().map(state).collect();
        let with_gradient = policy.is_some() && !is_full;
        let mut log_probs = vec![0.0; targets.len()];
        let head = lora.and_then(ScoreLora::head).unwrap_or_else(|| model.head());
        head::log_probs(head, &mut hidden, &targets, scale, with_gradient, &mut log_probs);
        if policy.is_some() {
            (tape.last, tape.d_hidden) = (x, hidden);
        } else {
            arena.give_all([x, hidden]);
        }
        Ok((Scored { log_probs, prefixes }, tape))
    }

    fn context(&self) -> LayerContext<'_> {
        let (spec, sequences, rows) = (self.model.spec(), self.sequences.as_slice(), self.positions.len());
        let windows: BTreeSet<usize> = (0..spec.layers).map(|layer| spec.window(layer)).collect();
        let blocks = windows.into_iter().map(|window| (window, QueryBlocks::new(sequences, window))).collect();
        let angles = Tables::new(spec, &self.positions);
        let (lora, output_rows) = (self.lora, self.output_rows.as_slice());
        LayerContext { model: self.model, lora, sequences, blocks, angles, rows, output_rows }
    }

    /// The residual stream `x` through all layers, whose tapes are kept by the policy: `(rows, hidden)` to
    /// `(output rows, hidden)`.
    fn layers_forward(&mut self, mut x: Vec<f32>, arena: &mut Arena) -> Vec<f32> {
        let mut layers = vec![];
        let context = self.context();
        for index in 0..self.model.spec().layers {
            let (after, mut tape) = context.forward(index, x, arena);
            x = after;
            match self.policy {
                Some(ActivationPolicy::KeepAll) => layers.push(tape),
                Some(ActivationPolicy::Recompute) => {
                    tape.keep_input(arena);
                    layers.push(tape);
                }
                None => tape.recycle(arena),
            }
        }
        self.layers = layers;
        x
    }

    /// The normalised state that predicts each target, `(targets, hidden)`, from the residual stream after the last layer.
    fn predicting_states(&self, x: &[f32], arena: &mut Arena) -> Vec<f32> {
        let (width, epsilon) = (self.model.spec().hidden, self.model.spec().norm_epsilon);
        let mut hidden = arena.take(self.predicting.len(), width);
        ops::by_rows(&mut hidden, width, |first, hidden| {
            for (out, &row) in hidden.chunks_exact_mut(width).zip(&self.predicting[first..]) {
                ops::norm_part(&x[row * width..][..width], out, self.model.norm(), epsilon);
            }
        });
        hidden
    }

    fn backward_to(mut self, weights: &[f32], target: &mut GradTarget<'_>, arena: &mut Arena) {
        let (model, spec) = (self.model, self.model.spec());
        let (hidden, mut layers) = (spec.hidden, std::mem::take(&mut self.layers));
        let is_weighted = target.full().is_some();
        if let Some(gradients) = target.full() {
            self.head_backward(weights, gradients, arena);
        }
        // The gradient of the normalised state: one row predicts the first id of each text behind its prefix.
        let mut normed = arena.take(self.last.len() / hidden, hidden);
        normed.fill(0.0);
        for ((&row, slope), weight) in self.predicting.iter().zip(self.d_hidden.chunks_exact(hidden)).zip(weights) {
            let weight = if is_weighted { 1.0 } else { *weight };
            let to = &mut normed[row * hidden..][..hidden];
            to.iter_mut().zip(slope).for_each(|(to, slope)| *to += weight * slope);
        }
        let mut d = arena.take(self.last.len() / hidden, hidden);
        d.fill(0.0);
        target.norm(ParamBlock::Norm, &self.last, &normed);
        ops::norm_backward(&self.last, &normed, &mut d, model.norm(), spec.norm_epsilon);
        arena.give_all([normed, std::mem::take(&mut self.last), std::mem::take(&mut self.d_hidden)]);
        let context = self.context();
        while let Some(mut tape) = layers.pop() {
            let index = layers.len();
            if self.policy == Some(ActivationPolicy::Recompute) {
                let (after, complete) = context.forward(index, tape.x, arena);
                arena.give(after);
                tape = complete;
            }
            d = context.backward(index, &tape, d, target, arena);
            tape.recycle(arena);
        }
        if let (Some(gradients), Some(inputs)) = (target.full(), &self.head_inputs) {
            gradients.embedding(&inputs.ids, &d, spec);
        }
        arena.give(d);
    }

    /// Computes the logits again: adds the head's gradient, and turns the normalised states in `d_hidden` into the gradient
    /// of the weighted sum with respect to them.
    fn head_backward(&mut self, weights: &[f32], gradients: &mut FullGradients, arena: &mut Arena) {
        let Some(HeadInputs { targets, scale, .. }) = &self.head_inputs else { return };
        let block = if self.model.spec().tied { ParamBlock::Embedding } else { ParamBlock::Head };
        let (weight, gradient) = (self.model.head().in_f32(), gradients.block_mut(block));
        head::backward(weight, &mut self.d_hidden, (targets, weights), *scale, gradient, &mut arena.logits);
    }
}

impl RecordedPass for PassTape<'_> {
    fn backward(self: Box<Self>, weights: &[f32], gradients: &mut AdapterGradients, arena: &mut Arena) -> Result<()> {
        if self.head_inputs.is_some() {
            return Err(Error::OtherBackend);
        }
        gradients.clear();
        self.backward_to(weights, &mut GradTarget::Adapter(gradients), arena);
        Ok(())
    }

    fn backward_full(self: Box<Self>, weights: &[f32], gradients: &mut FullGradients, arena: &mut Arena) -> Result<()> {
        if self.head_inputs.is_none() {
            return Err(Error::OtherBackend);
        }
        self.backward_to(weights, &mut GradTarget::Full(gradients), arena);
        Ok(())
    }
}
