//! The running maximum and sum of an online softmax (arXiv 1805.02867), a KV block at a time.

use super::layout::BLOCK_TOKENS;
use crate::kernels::ops::exp;

/// Running maximum and sum of one query's softmax.
#[derive(Clone, Copy)]
pub(super) struct SoftmaxState {
    pub(super) max: f32,
    pub(super) sum: f32,
}

impl SoftmaxState {
    /// The state before the first block.
    pub(super) const NEW: Self = Self { max: f32::NEG_INFINITY, sum: 0.0 };

    /// One over the sum of weights.
    pub(super) fn inverse(&self) -> f32 {
        1.0 / self.sum
    }

    /// Updates the state by a block's scores, minus infinity at masked places, and turns them into weights. Returns the
    /// factor by which the output so far must be rescaled.
    #[inline(always)]
    pub(super) fn update(&mut self, scores: &mut [f32; BLOCK_TOKENS]) -> f32 {
        let mut maxima = [self.max; 8];
        for scores in scores.chunks_exact(8) {
            for (max, &score) in maxima.iter_mut().zip(scores) {
                *max = if score > *max { score } else { *max };
            }
        }
        let max = reduce(maxima, |a, b| if b > a { b } else { a });
        if max == f32::NEG_INFINITY && scores.iter().all(|&score| score == max) {
            // Every place so far is masked.
            scores.fill(0.0);
            return 1.0;
        }
        let rescale = if max == self.max { 1.0 } else { exp(self.max - max) };
        let mut sums = [0.0f32; 8];
        for scores in scores.chunks_exact_mut(8) {
            for (score, sum) in scores.iter_mut().zip(&mut sums) {
                *score = exp(*score - max);
                *sum += *score;
            }
        }
        *self = Self { max, sum: self.sum.mul_add(rescale, reduce(sums, |a, b| a + b)) };
        rescale
    }
}

/// Reduces eight values as a tree: each half with the other.
#[inline(always)]
fn reduce(values: [f32; 8], join: impl Fn(f32, f32) -> f32) -> f32 {
    let [a, b, c, d, e, f, g, h] = values;
    let [a, b, c, d] = [join(a, e), join(b, f), join(c, g), join(d, h)];
    join(join(a, c), join(b, d))
}
