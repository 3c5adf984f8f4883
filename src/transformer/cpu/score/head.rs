//! The output head at the rows that predict a text: log-probabilities and their gradients.
//!
//! A row's log-probability is one number, so its gradient with respect to the hidden state is one vector, which later only
//! gets scaled. [`log_probs`] computes it while the logits exist, and the backward pass needs none. Only where the head
//! itself is trained does the backward pass compute the logits again, a few rows at a time.

use crate::kernels::ops;
use crate::kernels::{PackedMatrix, add_weight_gradient};
pub(super) use crate::kernels::{log_probs, log_probs_block_floats as block_floats, log_probs_floats};

/// Rows whose logits are computed at once.
const ROWS: usize = 128;

/// Floats of logits that the backward pass of a trained head allocates.
pub(super) fn working_floats(vocab: usize, targets: usize) -> usize {
    vocab * targets.min(ROWS)
}

/// The gradient of `sum_i weights_i log_probs_i`: adds that of the head to `gradient`, which is stored as the head is, and
/// overwrites `hidden` with its own.
pub(super) fn backward(
    head: &PackedMatrix,
    hidden: &mut [f32],
    (targets, weights): (&[u32], &[f32]),
    scale: f32,
    gradient: &mut [f32],
    logits: &mut Vec<f32>,
) {
    let (vocab, width) = (head.outputs(), head.inputs());
    let mut log_probs = vec![0.0; ROWS.min(targets.len())];
    for ((hidden, targets), weights) in
        hidden.chunks_mut(ROWS * width).zip(targets.chunks(ROWS)).zip(weights.chunks(ROWS))
    {
        logits.resize(targets.len() * vocab, 0.0);
        head.forward(hidden, logits);
        ops::each_row(logits, vocab, &mut log_probs, |row, logits| {
            let log_prob = log_prob(logits, targets[row], scale);
            ops::scale_part(logits, weights[row]);
            log_prob
        });
        add_weight_gradient(hidden, width, logits, vocab, gradient);
        head.backward(logits, hidden);
    }
}

/// The log-probability of `id`; `logits` becomes its gradient with respect to them.
fn log_prob(logits: &mut [f32], id: u32, scale: f32) -> f32 {
    let logit = logits[id as usize];
    let (top, sum) = ops::softmax_terms(logits, scale);
    ops::scale_part(logits, (-f64::from(scale) / sum) as f32);
    logits[id as usize] += scale;
    (f64::from(scale) * f64::from(logit - top) - sum.ln()) as f32
}
