//! What a layer's forward pass leaves for its backward pass, and what that takes.

use crate::formats::spec::ModelSpec;
use crate::kernels::attention::Heads;
use crate::kernels::padded_stride;
use crate::transformer::score::arena::Arena;
use crate::transformer::score::attention::TreeAttention;

/// What a layer's backward pass reads. Rows are the tokens of the batch, behind attention those that are read on; empty
/// where a family has no such thing.
#[derive(Debug, Default)]
pub(in crate::transformer::score) struct Tape {
    /// The residual stream before the layer, `(rows, hidden)`.
    pub(in crate::transformer::score) x: Vec<f32>,
    /// Queries and keys before their norms, `(rows, q + k + v widths)`.
    pub(super) qkv: Vec<f32>,
    /// Queries, keys and values as attention reads them, `(rows, q + k + v widths)`.
    pub(super) turned: Vec<f32>,
    /// What attention found, `(rows, q width)`, and the log-sum-exp of the scores, `(rows, heads)`.
    pub(super) attended: Vec<f32>,
    pub(super) lse: Vec<f32>,
    /// What attention's output was before its norm, `(rows, hidden)`.
    pub(super) output: Vec<f32>,
    /// The residual stream between the blocks, `(rows, hidden)`.
    pub(super) middle: Vec<f32>,
    /// `(rows, 2 intermediate)`, rows [`padded_stride`] floats apart.
    pub(super) gate_up: Vec<f32>,
    /// What the feed-forward block gave before its norm, `(rows, hidden)`.
    pub(super) down: Vec<f32>,
    /// Inner rows of the adapter, by linear.
    pub(super) inner: [Vec<f32>; 4],
}

impl Tape {
    /// Gives back all but the layer's input.
    pub(in crate::transformer::score) fn keep_input(&mut self, space: &mut Arena) {
        let x = std::mem::take(&mut self.x);
        std::mem::take(self).recycle(space);
        self.x = x;
    }

    /// Gives its memory back.
    pub(in crate::transformer::score) fn recycle(self, space: &mut Arena) {
        let Self { x, qkv, turned, attended, lse, output, middle, gate_up, down, inner } = self;
        for values in [x, qkv, turned, attended, lse, output, middle, gate_up, down].into_iter().chain(inner) {
            space.give(values);
        }
    }
}

/// Floats that one token keeps on a tape of one layer.
pub(in crate::transformer::score) fn tape_floats(spec: &ModelSpec, rank: usize) -> usize {
    let heads = Heads::of(spec);
    let qkv = heads.q_width() + 2 * heads.kv_width();
    let norms = usize::from(spec.block.qk_norm) * qkv + usize::from(spec.block.sandwich_norms) * 2 * spec.hidden;
    2 * spec.hidden + qkv + heads.q_width() + heads.heads + padded_stride(2 * spec.intermediate) + norms + 7 * rank
}

/// Floats a token that a layer's backward pass works with beside the tape.
pub(in crate::transformer::score) fn working_floats(spec: &ModelSpec, rank: usize) -> usize {
    let heads = Heads::of(spec);
    let qkv = heads.q_width() + 2 * heads.kv_width();
    // Forward: what heads found. Backward: gradients of queries, keys and values by head, and gathered; that of what
    // was found.
    let attention = TreeAttention::forward_room(heads) + TreeAttention::backward_room(heads) + qkv + heads.q_width();
    let feed_forward = 2 * spec.intermediate + padded_stride(2 * spec.intermediate);
    let streams = 4 + usize::from(spec.block.sandwich_norms);
    // Beside the last layer's rows those of them that are read on.
    let narrowed = spec.hidden + heads.q_width();
    attention + feed_forward + streams * spec.hidden + narrowed + 3 * rank
}
