//! Bytes that the passes of `dense` hold on a GPU.

use crate::formats::adapter::LoraConfig;
use crate::formats::spec::{ModelSpec, Projection};
use crate::kernels::attention::{BLOCK_TOKENS, Heads};
use crate::transformer::dense::decode::{DenseDecoder, LOGIT_ROWS_MAX};
use crate::transformer::stack::Linear;
use candle_core::DType;

const F32: usize = size_of::<f32>();
const BF16: usize = 2;

/// Scores of one layer, `(heads, rows, keys)` in f32, that `ops::attention` holds at once: scaled, masked, shifted and
/// exponentiated.
const SCORES_FORWARD: usize = 4;
// What one piece takes while its gradient is computed: its graph, and gradients that are zeroed, computed and added. Counted
// from the allocations of recorded passes in f32 on the CPU; with the graph of `recorded_row` they give the peak of models of
// six shapes within 4 %.
/// Scores of one layer.
const SCORES_BACKWARD: usize = 15;
/// Queries, keys and values of one layer, `(rows, q + k + v widths)`, split and rotated.
const ROTATED_BACKWARD: usize = 14;
/// Products of gate and up, `(rows, intermediate)`.
const GATED_BACKWARD: usize = 32;
/// Logits, `(targets, vocab)`, beside those that the graph holds.
const LOGITS_BACKWARD: usize = 12;

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

/// Floats of an adapter like `lora`.
pub(crate) fn adapter_floats(spec: &ModelSpec, lora: &LoraConfig) -> usize {
    let of_site = |site: &Projection| {
        let (inputs, outputs) = site.sizes(spec);
        lora.rank * (inputs + outputs)
    };
    spec.layers * lora.targets.iter().map(of_site).sum::<usize>()
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
        let of_keys = 4 * Heads::of(spec).kv_width() + SCORES_FORWARD * heads * rows + rows;
        sequences * keys * of_keys * F32
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

/// Floats that the graph of one layer holds for each row until its gradient is known. The sum of two tensors holds both, so a
/// linear with an adapter holds its output four or five times: of the base, of the branches, these side by side, scaled,
/// and the sum.
fn recorded_row(spec: &ModelSpec, lora: &LoraConfig) -> usize {
    let of_linear = |&linear: &Linear| {
        let (_, outputs) = linear.sizes(spec);
        let parts = linear.projections();
        let ranks = parts.iter().filter(|part| lora.targets.contains(part)).count();
        let biased = parts.iter().all(|&part| spec.layer_spec.has_bias(part));
        // With a bias: the sum, and the gradient of the bias as rows, which is kept although nobody asks for it.
        let bias = if biased { 2 * outputs } else { 0 };
        let copies = match (ranks, parts.len()) {
            (0, _) => 1,
            (_, 1) => 4,
            _ => 5,
        };
        copies * outputs + ranks * lora.rank + bias
    };
    let linears: usize = Linear::ALL.iter().map(of_linear).sum();
    // Two norms' outputs and the residual stream after each block; attention's output; the gated product.
    let norms = if spec.layer_spec.sandwich_norms { 6 } else { 4 };
    linears + norms * spec.hidden + Heads::of(spec).q_width() + spec.intermediate
}

/// Most bytes that recording and differentiating a score pass takes beside weights and adapter: `rows` packed tokens, of
/// which `targets` are predicted.
pub(crate) fn score_activations(spec: &ModelSpec, lora: &LoraConfig, rows: usize, targets: usize) -> usize {
    let heads = Heads::of(spec);
    let graph = rows * (spec.layers * recorded_row(spec, lora) + 2 * spec.hidden) + rows * rows;
    let logits = targets * spec.vocab;
    let attention = SCORES_BACKWARD * heads.heads * rows * rows
        + ROTATED_BACKWARD * rows * (heads.q_width() + 2 * heads.kv_width());
    let gated = GATED_BACKWARD * rows * spec.intermediate;
    // One piece at a time.
    let piece = attention.max(gated).max(LOGITS_BACKWARD * logits);
    (graph + logits + piece) * F32
}
