//! Softmax over rows of logits.

use super::exp::exp;
use super::vectorised::vectorised;

/// The largest of `row`, ignoring NaN.
#[inline(always)]
fn max_of(row: &[f32]) -> f32 {
    let mut tops = [f32::NEG_INFINITY; 16];
    for chunk in row.chunks(16) {
        for (top, &x) in tops.iter_mut().zip(chunk) {
            *top = if x > *top { x } else { *top };
        }
    }
    tops.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

/// The largest of `row` and the sum of `e^(scale (x - largest))`, in a fixed order.
#[inline(always)]
fn max_and_sum(row: &[f32], scale: f32) -> (f32, f64) {
    let top = max_of(row);
    let mut total = 0.0f64;
    for block in row.chunks(1024) {
        let mut sums = [0.0f32; 16];
        for chunk in block.chunks(16) {
            for (sum, &x) in sums.iter_mut().zip(chunk) {
                *sum += exp(scale * (x - top));
            }
        }
        total += sums.iter().map(|&sum| f64::from(sum)).sum::<f64>();
    }
    (top, total)
}
vectorised!(
    /// The maximum of a row of logits and the f64 sum of `e^(scale (x - max))`.
    softmax_parts, max_and_sum, (row: &[f32], scale: f32) -> (f32, f64)
);

/// [`max_and_sum`]; `row` becomes the terms of the sum.
#[inline(always)]
fn terms_of(row: &mut [f32], scale: f32) -> (f32, f64) {
    let top = max_of(row);
    let mut total = 0.0f64;
    for block in row.chunks_mut(1024) {
        let mut sums = [0.0f32; 16];
        for chunk in block.chunks_mut(16) {
            for (sum, x) in sums.iter_mut().zip(chunk) {
                *x = exp(scale * (*x - top));
                *sum += *x;
            }
        }
        total += sums.iter().map(|&sum| f64::from(sum)).sum::<f64>();
    }
    (top, total)
}
vectorised!(
    /// [`softmax_parts`]; the row becomes the terms of its sum.
    softmax_terms, terms_of, (row: &mut [f32], scale: f32) -> (f32, f64)
);

/// Log-probability of `id` under softmax(scale * logits).
pub(crate) fn log_prob(logits: &[f32], id: u32, scale: f32) -> f32 {
    let (top, sum) = softmax_parts(logits, scale);
    (f64::from(scale) * f64::from(logits[id as usize] - top) - sum.ln()) as f32
}
