//! The softmax of scores in panels of 16 keys, and its gradient, row by row.

use crate::kernels::Accumulator;
use crate::kernels::ops::{exp, vectorised};
use std::ops::Range;

/// Keys of a panel, which are computed together.
pub(super) const KEYS: usize = Accumulator::WIDTH;
/// Panels whose terms are summed in single precision.
const SUMMED: usize = 64;

/// The keys of a panel that a row attends to, one bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyMask(u16);

impl KeyMask {
    const NONE: Self = Self(0);
    const ALL: Self = Self(u16::MAX);

    /// The keys from `first` on that are in one of two ranges.
    pub(super) fn of(visible: &[Range<usize>; 2], first: usize) -> Self {
        let bits = |end: usize| (1u32 << end.saturating_sub(first).min(KEYS)) - 1;
        let [a, b] = [0, 1].map(|run| bits(visible[run].end) & !bits(visible[run].start));
        Self((a | b) as u16)
    }

    /// Overwrites masked keys with `value`.
    #[inline(always)]
    fn hide(self, lane: &mut [f32; KEYS], value: f32) {
        if self != Self::ALL {
            for (key, x) in lane.iter_mut().enumerate() {
                *x = if u32::from(self.0) >> key & 1 == 0 { value } else { *x };
            }
        }
    }
}

/// SoftmaxRow `row` of `scores` becomes the softmax of `scale * scores` over the keys in `masks`, 0 elsewhere. Returns the
/// log-sum-exp.
#[inline(always)]
fn forward_row(scores: &mut Accumulator, row: usize, masks: &[KeyMask], scale: f32) -> f32 {
    let mut tops = [f32::NEG_INFINITY; KEYS];
    for (panel, mask) in masks.iter().enumerate() {
        let lane = scores.lane_mut(panel, row);
        mask.hide(lane, f32::NEG_INFINITY);
        for (top, &x) in tops.iter_mut().zip(&*lane) {
            *top = if x > *top { x } else { *top };
        }
    }
    let top = tops.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let mut total = 0.0f64;
    for (few, first) in masks.chunks(SUMMED).zip((0..).step_by(SUMMED)) {
        let mut sums = [0.0f32; KEYS];
        for (panel, &mask) in (first..).zip(few) {
            let lane = scores.lane_mut(panel, row);
            if mask == KeyMask::NONE {
                *lane = [0.0; KEYS];
                continue;
            }
            for (x, sum) in lane.iter_mut().zip(&mut sums) {
                *x = exp(scale * (*x - top));
                *sum += *x;
            }
        }
        total += sums.iter().map(|&sum| f64::from(sum)).sum::<f64>();
    }
    let inverse = (1.0 / total) as f32;
    for panel in 0..masks.len() {
        scores.lane_mut(panel, row).iter_mut().for_each(|x| *x *= inverse);
    }
    (f64::from(scale * top) + total.ln()) as f32
}
vectorised!(forward, forward_row, (scores: &mut Accumulator, row: usize, masks: &[KeyMask], scale: f32) -> f32);

/// A row's softmax in the backward pass.
#[derive(Clone, Copy)]
pub(super) struct SoftmaxRow {
    pub(super) row: usize,
    pub(super) scale: f32,
    /// The log-sum-exp.
    pub(super) lse: f32,
    /// The sum of each weight times its gradient.
    pub(super) inner: f32,
}

/// The row of `scores` becomes the softmax again, and that of `d`, the gradient of the weights, the gradient of the scores.
#[inline(always)]
fn backward_row(scores: &mut Accumulator, d: &mut Accumulator, row: SoftmaxRow, masks: &[KeyMask]) {
    let SoftmaxRow { row, scale, lse, inner } = row;
    for (panel, &mask) in masks.iter().enumerate() {
        let (weights, d) = (scores.lane_mut(panel, row), d.lane_mut(panel, row));
        if mask == KeyMask::NONE {
            [*weights, *d] = [[0.0; KEYS]; 2];
            continue;
        }
        weights.iter_mut().for_each(|x| *x = exp(scale * *x - lse));
        mask.hide(weights, 0.0);
        for (d, weight) in d.iter_mut().zip(&*weights) {
            *d = scale * weight * (*d - inner);
        }
    }
}
vectorised!(backward, backward_row, (scores: &mut Accumulator, d: &mut Accumulator, row: SoftmaxRow, masks: &[KeyMask]));
