//! Bytes that the passes of `dense` hold on a GPU.

use crate::formats::adapter::LoraConfig;
use crate::formats::spec::{ModelSpec, Projection};
use crate::kernels::attention::{BLOCK_TOKENS, Heads};
use crate::transformer::dense::attention::{self, SCORES_MAX};
use crate::transformer::dense::decode::{DenseDecoder, LOGIT_ROWS_MAX};
use crate::transformer::score::ActivationPolicy;
use crate::transformer::stack::Linear;
use candle_core::DType;

const F32: usize = size_of::<f32>();
const BF16: usize = 2;

/// Scores of one layer, `(heads, rows, keys)` in f32, that `attention::attend` holds at once: scaled, masked, and their softmax.
const SCORES_FORWARD: usize = 3;
// What one piece takes while its gradient is computed, in f32, held against the most that recorded passes allocate
// (`dense/cuda_tests.rs`).
/// Scores of one tile.
const SCORES_BACKWARD: usize = 4;
/// Queries, keys and values of one layer, `(rows, q + k + v widths)`, split and rotated.
const ROTATED_BACKWARD: usize = 8;
/// Queries and keys, where heads are normalised.
const HEAD_NORMS_BACKWARD: usize = 6;
/// Products of gate and up, `(rows, intermediate)`.
const GATED_BACKWARD: usize = 7;
/// The residual stream, `(rows, hidden)`, at a norm.
const NORM_BACKWARD: usize = 8;
/// The same, beside any other piece.
const RESIDUAL_BACKWARD: usize = 4;
/// Logits of some rows, `(rows, vocab)`.
const LOGITS_BACKWARD: usize = 4;

/// Bytes of the weights: matrices in bf16, norms and biases in f32.
pub(crate) fn weights(spec: &ModelSpec) -> usize {
    let of =
        |(_, shape): &(String, Vec<usize>)| shape.iter().product::<usize>() * if shape.len() == 2 { BF16 } else { F32 };
    spec.tensors().iter().map(of).sum()
}

/// Bytes of the keys and values of one token in all layers.
pub(crate) fn kv_token(spec: &ModelSpec) -> usize {
    DenseDecoder::block_bytes(spec, DType::BF16) / BLOCK_TOKENS
}

/// Floats of an adapter like `lora`, as it is trained and stored.
pub(crate) fn adapter_floats(spec: &ModelSpec, lora: &LoraConfig) -> usize {
    let of_site = |site: &Projection| {
        let (inputs, outputs) = site.sizes(spec);
        lora.rank * (inputs + outputs)
    };
    spec.layers * lora.targets.iter().map(of_site).sum::<usize>()
}

/// Floats that an adapter like `lora` takes on the device: one pair of factors a linear, in which a projection's outputs have
/// zeros where they meet another's ranks.
pub(crate) fn device_adapter_floats(spec: &ModelSpec, lora: &LoraConfig) -> usize {
    let of_linear = |linear: &Linear| {
        let (inputs, outputs) = linear.sizes(spec);
        let ranks = lora.rank * linear.projections().iter().filter(|part| lora.targets.contains(part)).count();
        ranks * (inputs + outputs)
    };
    spec.layers * Linear::ALL.iter().map(of_linear).sum::<usize>()
}

/// Bytes of the logits of a step: `rows` of them, at most as many as are computed at once, in bf16 and in f32.
pub(crate) fn logits(spec: &ModelSpec, rows: usize) -> usize {
    rows.min(LOGIT_ROWS_MAX) * spec.vocab * (BF16 + F32)
}

/// Bytes of one layer of a decode step beside weights and cache: `sequences` of `rows` tokens each over `context` tokens,
/// with plain attention or, where `flash` is set, with flash attention's kernel.
fn decode_activations(spec: &ModelSpec, [sequences, rows, context]: [usize; 3], flash: bool) -> usize {
    let Heads { heads, .. } = Heads::of(spec);
    let all = sequences * rows;
    // The residual stream, the block's input, gate and up in bf16 and f32, their product.
    let feed_forward = all * ((2 * spec.hidden + 3 * spec.intermediate) * F32 + 2 * spec.intermediate * BF16);
    let keys = context.next_multiple_of(BLOCK_TOKENS);
    let attention = if flash {
        0
    } else {
        // Gathered keys and values with a transposed copy of each, the scores, and the mask.
        let all_scores = sequences * heads * rows * keys;
        let scores = if rows > 1 { all_scores.min(SCORES_MAX) } else { all_scores };
        (sequences * keys * (4 * Heads::of(spec).kv_width() + rows) + SCORES_FORWARD * scores) * F32
    };
    feed_forward.max(attention + all * (2 * spec.hidden + 3 * Heads::of(spec).q_width()) * F32)
}

/// Most bytes of one layer of an engine's steps over contexts of `context` tokens: all `sequences` decode, or one prompt's
/// chunk of at most `step_tokens`. `flash` as in [`decode_activations`].
pub(crate) fn engine_activations(
    spec: &ModelSpec,
    sequences: usize,
    step_tokens: usize,
    context: usize,
    flash: bool,
) -> usize {
    let of = |sequences, rows| decode_activations(spec, [sequences, rows, context], flash);
    of(sequences, 1).max(of(1, step_tokens.min(context)))
}

/// Floats that the graph of one layer holds for each row until its gradient is known.
fn recorded_row(spec: &ModelSpec) -> usize {
    let of_linear = |&linear: &Linear| {
        let biased = linear.projections().iter().all(|&part| spec.layer_spec.has_bias(part));
        (1 + usize::from(biased)) * linear.sizes(spec).1
    };
    let linears: usize = Linear::ALL.iter().map(of_linear).sum();
    // Two norms' outputs and the residual stream after each block; attention's output; the gated product.
    let norms = if spec.layer_spec.sandwich_norms { 6 } else { 4 };
    linears + norms * spec.hidden + Heads::of(spec).q_width() + spec.intermediate
}

/// A score pass that is recorded and differentiated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recording<'a> {
    /// The adapter.
    pub(crate) lora: &'a LoraConfig,
    /// Tokens of all packed sequences, which are recorded before any is differentiated.
    pub(crate) rows: usize,
    /// Those that are predicted.
    pub(crate) targets: usize,
    /// Which activations are kept.
    pub(crate) policy: ActivationPolicy,
}

/// Most bytes that recording and differentiating a score pass takes beside weights and adapter.
pub(crate) fn score_activations(spec: &ModelSpec, pass: &Recording<'_>) -> usize {
    let &Recording { lora, rows, targets, policy } = pass;
    let heads = Heads::of(spec);
    let (queries, keys) = (heads.q_width(), heads.kv_width());
    // The input of every layer and of the head, the head's states, and a mask for each kind of layer.
    let kinds = usize::from((0..spec.layers).any(|layer| spec.slides(layer)))
        + usize::from((0..spec.layers).any(|layer| !spec.slides(layer)));
    let inputs = rows * (spec.layers + 2) * spec.hidden + targets * spec.hidden + kinds * rows * rows;
    let layer = rows * recorded_row(spec);
    let graph = match policy {
        ActivationPolicy::KeepAll => spec.layers * layer,
        ActivationPolicy::Recompute => layer,
    };
    let rotated = ROTATED_BACKWARD * (queries + 2 * keys)
        + if spec.layer_spec.qk_norm { HEAD_NORMS_BACKWARD * (queries + keys) } else { 0 };
    let tile = SCORES_BACKWARD * heads.heads * attention::tile_rows(rows, heads.heads);
    let residual = RESIDUAL_BACKWARD * spec.hidden;
    // One piece at a time.
    let pieces =
        [residual + rotated + tile, residual + GATED_BACKWARD * spec.intermediate, NORM_BACKWARD * spec.hidden];
    let of_layers = graph + rows * pieces.into_iter().fold(0, usize::max);
    // The head's gradient is computed while no layer is computed again.
    let logits = LOGITS_BACKWARD * targets.min(LOGIT_ROWS_MAX) * spec.vocab + rows * residual;
    let of_head = logits + if policy == ActivationPolicy::KeepAll { graph } else { 0 };
    // Gradients of one layer's factors, and their copy to be sent to the host.
    let gradients = 2 * device_adapter_floats(spec, lora) / spec.layers;
    (inputs + gradients + of_layers.max(of_head)) * F32
}
