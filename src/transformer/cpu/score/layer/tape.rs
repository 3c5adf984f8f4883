//! What a layer's forward pass keeps for its backward pass, and how much memory that takes.

use crate::formats::spec::ModelSpec;
use crate::kernels::attention::Heads;
use crate::kernels::padded_stride;
use crate::transformer::cpu::score::attention::PackedAttention;
use crate::transformer::score::Arena;
use crate::transformer::stack::Linear;

/// What a layer's backward pass reads. Rows are the tokens of the batch, behind the last layer's attention only the output
/// rows. Empty where a family has no such activation.
#[derive(Debug, Default)]
pub(in crate::transformer) struct LayerTape {
    /// The residual stream before the layer, `(rows, hidden)`.
    pub(in crate::transformer) x: Vec<f32>,
    /// Queries and keys before their norms, `(rows, q + k + v widths)`.
    pub(super) qkv: Vec<f32>,
    /// Queries, keys and values as attention reads them, `(rows, q + k + v widths)`.
    pub(super) rotated: Vec<f32>,
    /// Attention's output, `(rows, q width)`, and the log-sum-exp of its scores, `(rows, heads)`.
    pub(super) attended: Vec<f32>,
    pub(super) lse: Vec<f32>,
    /// The attention block's output before its norm, `(rows, hidden)`.
    pub(super) output: Vec<f32>,
    /// The residual stream between the blocks, `(rows, hidden)`.
    pub(super) middle: Vec<f32>,
    /// `(rows, 2 intermediate)`, rows [`padded_stride`] floats apart.
    pub(super) gate_up: Vec<f32>,
    /// The feed-forward block's output before its norm, `(rows, hidden)`.
    pub(super) down: Vec<f32>,
    /// Inner rows of the adapter, by linear.
    pub(super) inner: [Vec<f32>; 4],
}

impl LayerTape {
    /// Inner rows of the adapter's branch on `linear`.
    pub(super) fn inner(&self, linear: Linear) -> &[f32] {
        &self.inner[linear as usize]
    }

    /// Returns all memory but the layer's input to `arena`.
    pub(in crate::transformer) fn keep_input(&mut self, arena: &mut Arena) {
        let x = std::mem::take(&mut self.x);
        std::mem::take(self).recycle(arena);
        self.x = x;
    }

    /// Returns its memory to `arena`.
    pub(in crate::transformer) fn recycle(self, arena: &mut Arena) {
        let Self { x, qkv, rotated, attended, lse, output, middle, gate_up, down, inner } = self;
        for values in [x, qkv, rotated, attended, lse, output, middle, gate_up, down].into_iter().chain(inner) {
            arena.give(values);
        }
    }
}

/// 1 if the outputs of the blocks are normalised, else 0.
fn has_output_norms(spec: &ModelSpec) -> usize {
    usize::from(spec.layer_spec.sandwich_norms || spec.layer_spec.post_norms)
}

/// Floats per token on the tape of one layer.
pub(in crate::transformer) fn tape_floats(spec: &ModelSpec, rank: usize) -> usize {
    let heads = Heads::of(spec);
    let qkv = heads.q_width() + 2 * heads.kv_width();
    let norms = usize::from(spec.layer_spec.qk_norm) * qkv + has_output_norms(spec) * 2 * spec.hidden;
    2 * spec.hidden + qkv + heads.q_width() + heads.heads + padded_stride(2 * spec.intermediate) + norms + 7 * rank
}

/// Floats per token that a layer's backward pass allocates beside the tape.
pub(in crate::transformer) fn working_floats(spec: &ModelSpec, rank: usize) -> usize {
    let heads = Heads::of(spec);
    let qkv = heads.q_width() + 2 * heads.kv_width();
    // Forward: attention's output by head. Backward: gradients of queries, keys and values by head and by row, and the
    // gradient of attention's output.
    let attention =
        PackedAttention::forward_floats(heads) + PackedAttention::backward_floats(heads) + qkv + heads.q_width();
    let feed_forward = 2 * spec.intermediate + padded_stride(2 * spec.intermediate);
    let streams = 4 + 2 * has_output_norms(spec).max(usize::from(spec.residual_scale != 1.0));
    // The last layer's output rows, beside all rows.
    let output_rows = spec.hidden + heads.q_width();
    attention + feed_forward + streams * spec.hidden + output_rows + 3 * rank
}
