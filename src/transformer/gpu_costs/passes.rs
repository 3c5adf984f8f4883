//! The operations of the two passes of `dense`, from the pieces in [`super::operations`].

use super::operations::Operations;
use crate::formats::adapter::LoraConfig;
use crate::formats::spec::ModelSpec;
use crate::kernels::attention::{BLOCK_TOKENS, Heads};
use crate::transformer::dense::attention;
use crate::transformer::score::ActivationPolicy;
use crate::transformer::stack::Linear;

/// How the decode pass attends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attention {
    /// Blocks are gathered, converted to f32 and multiplied.
    Plain,
    /// Flash attention's kernel reads the blocks.
    Flash,
}

impl Attention {
    /// What a build with this one's features uses on a GPU.
    pub(crate) const BUILT: Self = if cfg!(feature = "flash-attn") { Self::Flash } else { Self::Plain };

    /// Its name in a report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Flash => "flash",
        }
    }
}

/// One step of the decode pass over sequences that are alike.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step<'a> {
    /// Sequences in the batch.
    pub(crate) sequences: usize,
    /// New tokens of each.
    pub(crate) rows: usize,
    /// Tokens of each in the cache after the step.
    pub(crate) context: usize,
    /// Rows whose logits are sampled.
    pub(crate) logits: usize,
    /// The adapter, and the rows that it applies to; the others are the base model's.
    pub(crate) adapted: Option<(&'a LoraConfig, usize)>,
    /// How it attends.
    pub(crate) attention: Attention,
}

/// The operations of one layer of a decode step.
pub(crate) fn decode_layer(spec: &ModelSpec, step: &Step<'_>) -> Operations {
    let heads = Heads::of(spec);
    let rows = step.sequences * step.rows;
    let mut layer = Operations::default();
    let linear = |layer: &mut Operations, linear: Linear, is_bf16: bool| {
        let (inputs, outputs) = linear.sizes(spec);
        layer.summed_product([rows, inputs, outputs], is_bf16);
        bias(layer, spec, linear, rows);
        if let Some((lora, adapted)) = step.adapted.filter(|(_, adapted)| *adapted > 0) {
            let parts = linear.projections().iter().filter(|projection| lora.targets.contains(projection)).count();
            layer.joined([rows, adapted], [inputs, parts * lora.rank, outputs], is_bf16);
        }
    };
    let norms = |layer: &mut Operations| (0..norms_of_block(spec)).for_each(|_| layer.fused_norm(rows, spec.hidden));
    norms(&mut layer);
    linear(&mut layer, Linear::Qkv, false);
    layer.heads(heads, rows);
    match step.attention {
        Attention::Flash => layer.flash(heads, rows, step.sequences * step.context, rows * step.context),
        Attention::Plain => {
            let keys = step.context.next_multiple_of(BLOCK_TOKENS);
            // Their rows, and in f32.
            layer.piece(2, 4 * rows * heads.q_width());
            layer.gather(heads.kv_width(), step.sequences * keys);
            layer.attention(heads, step.sequences, step.rows, keys);
        }
    }
    linear(&mut layer, Linear::Output, step.attention == Attention::Flash);
    layer.piece(1, 3 * rows * spec.hidden);
    norms(&mut layer);
    linear(&mut layer, Linear::GateUp, false);
    layer.piece(1, 3 * rows * spec.intermediate);
    linear(&mut layer, Linear::Down, false);
    layer.piece(1, 3 * rows * spec.hidden);
    layer
}

/// The operations of a decode step.
pub(crate) fn decode(spec: &ModelSpec, step: &Step<'_>) -> Operations {
    let rows = step.sequences * step.rows;
    let mut all = Operations::default();
    // Angles, slots, and what attention needs: rows, tables and mask, or starts and tables.
    all.uploaded(2 + 1 + 3);
    all.embedded(rows, spec.hidden);
    all.layers(spec.layers, &decode_layer(spec, step));
    all.fused_norm(rows, spec.hidden);
    if step.logits > 0 {
        all.uploaded(1);
        all.piece(1, 2 * step.logits * spec.hidden);
        all.summed_product([step.logits, spec.hidden, spec.vocab], false);
        all.drawn(step.logits, spec.vocab);
    }
    all
}

/// One packed sequence of the score pass.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScoreShape<'a> {
    /// Tokens of the prefix and of all texts.
    pub(crate) rows: usize,
    /// Tokens of the texts.
    pub(crate) targets: usize,
    /// The adapter; none for the reference.
    pub(crate) lora: Option<&'a LoraConfig>,
}

/// The operations of the layers of the score pass, forward.
fn score_layers(spec: &ModelSpec, shape: &ScoreShape<'_>) -> Operations {
    let (heads, rows) = (Heads::of(spec), shape.rows);
    let mut layer = Operations::default();
    let linear = |layer: &mut Operations, linear: Linear| {
        product(layer, spec, linear, rows);
        if let Some(lora) = shape.lora {
            added(layer, spec, linear, lora, rows);
        }
    };
    norms(&mut layer, spec, rows);
    linear(&mut layer, Linear::Qkv);
    prepared(&mut layer, spec, rows);
    for tile in attention::tiles(rows, attention::tile_rows(rows, heads.heads)) {
        layer.attention(heads, 1, tile.len(), tile.end);
    }
    linear(&mut layer, Linear::Output);
    layer.piece(1, 3 * rows * spec.hidden);
    norms(&mut layer, spec, rows);
    linear(&mut layer, Linear::GateUp);
    layer.gated(rows, spec.intermediate);
    linear(&mut layer, Linear::Down);
    layer.piece(1, 3 * rows * spec.hidden);
    if shape.lora.is_some() {
        // The values of norms, attention and gate are copied as they enter the graph.
        let norms = 2 * norms_of_block(spec);
        layer.piece(norms + 2, 2 * rows * (norms * spec.hidden + heads.q_width() + spec.intermediate));
    }
    let mut all = Operations::default();
    all.layers(spec.layers, &layer);
    all
}

/// The operations of the score pass, forward.
pub(crate) fn score(spec: &ModelSpec, shape: &ScoreShape<'_>) -> Operations {
    let rows = shape.rows;
    let mut all = Operations::default();
    // Angles, mask, predicting rows, targets.
    all.uploaded(2 + 1 + 1 + 1);
    all.embedded(rows, spec.hidden);
    all.list.extend(score_layers(spec, shape).list);
    all.norm(rows, spec.hidden);
    all.piece(1, 2 * shape.targets * spec.hidden);
    all.log_probs(shape.targets, spec.hidden, spec.vocab);
    all
}

/// The operations of the gradient of a recorded score pass with the adapter `lora`, which goes to the host. With
/// [`ActivationPolicy::Recompute`] each layer is computed again.
pub(crate) fn score_gradient(spec: &ModelSpec, shape: &ScoreShape<'_>, policy: ActivationPolicy) -> Operations {
    let mut all = score(spec, shape).gradient();
    if policy == ActivationPolicy::Recompute {
        all.list.extend(score_layers(spec, shape).list);
    }
    all.host_floats = shape.lora.map_or(0, |lora| super::memory::device_adapter_floats(spec, lora)) as f64;
    all
}

/// Norms of the residual stream at a block: before it, and behind it where the family has those too.
fn norms_of_block(spec: &ModelSpec) -> usize {
    if spec.layer_spec.sandwich_norms { 2 } else { 1 }
}

/// The norms of a block.
fn norms(layer: &mut Operations, spec: &ModelSpec, rows: usize) {
    (0..norms_of_block(spec)).for_each(|_| layer.norm(rows, spec.hidden));
}

/// The product of `linear`, and its bias.
fn product(layer: &mut Operations, spec: &ModelSpec, linear: Linear, rows: usize) {
    let (inputs, outputs) = linear.sizes(spec);
    layer.product(rows, inputs, outputs);
    bias(layer, spec, linear, rows);
}

/// The bias of `linear`, if it has one.
fn bias(layer: &mut Operations, spec: &ModelSpec, linear: Linear, rows: usize) {
    if linear.projections().iter().all(|&projection| spec.layer_spec.has_bias(projection)) {
        layer.piece(1, 2 * rows * linear.sizes(spec).1);
    }
}

/// What `graph::adapted_product` adds to the product of `linear`.
fn added(layer: &mut Operations, spec: &ModelSpec, linear: Linear, lora: &LoraConfig, rows: usize) {
    let parts = linear.projections();
    let ranks = lora.rank * parts.iter().filter(|part| lora.targets.contains(part)).count();
    if ranks > 0 {
        let (inputs, outputs) = linear.sizes(spec);
        layer.branch(rows, inputs, ranks, outputs);
        // The sum, and the copy of a value that enters the graph.
        layer.piece(2, 5 * rows * outputs);
    }
}

/// Queries, keys and values: split, normalised and rotated.
fn prepared(layer: &mut Operations, spec: &ModelSpec, rows: usize) {
    let heads = Heads::of(spec);
    let (queries, keys) = (heads.q_width(), heads.kv_width());
    // One row is contiguous as it is.
    let copies = if rows > 1 { 3 } else { 0 };
    layer.piece(copies, if rows > 1 { 2 * rows * (queries + 2 * keys) } else { 0 });
    for width in [queries, keys] {
        if spec.layer_spec.qk_norm {
            layer.norm(rows, width);
        }
        layer.rotated(rows, width);
    }
}
