//! The softmax of scores that lie in panels of 16 keys, and its gradient, row by row.

use crate::kernels::Accumulator;
use crate::kernels::ops::{exp, vectorised};
use std::ops::Range;

/// Keys that are computed together: what a panel holds.
pub(super) const KEYS: usize = Accumulator::WIDTH;
/// Panels whose terms are summed in single precision.
const SUMMED: usize = 64;

/// Which of a panel's keys a row sees, a bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen(u16);

impl Seen {
    const NOTHING: Self = Self(0);
    const ALL: Self = Self(u16::MAX);

    /// Those of the keys from `first` on that are in one of two ranges.
    pub(super) fn of(visible: &[Range<usize>; 2], first: usize) -> Self {
        let bits = |end: usize| (1u32 << end.saturating_sub(first).min(KEYS)) - 1;
        let [a, b] = [0, 1].map(|run| bits(visible[run].end) & !bits(visible[run].start));
        Self((a | b) as u16)
    }

    /// Puts `value` where nothing is seen.
    #[inline(always)]
    fn hide(self, lane: &mut [f32; KEYS], value: f32) {
        if self != Self::ALL {
            for (key, x) in lane.iter_mut().enumerate() {
                *x = if u32::from(self.0) >> key & 1 == 0 { value } else { *x };
            }
        }
    }
}

/// Row `row` of `scores` becomes the softmax of `scale * scores` over what is seen, 0 elsewhere. Returns the log-sum-exp.
#[inline(always)]
fn forward_row(scores: &mut Accumulator, row: usize, seen: &[Seen], scale: f32) -> f32 {
    let mut tops = [f32::NEG_INFINITY; KEYS];
    for (panel, seen) in seen.iter().enumerate() {
        let lane = scores.lane_mut(panel, row);
        seen.hide(lane, f32::NEG_INFINITY);
        for (top, &x) in tops.iter_mut().zip(&*lane) {
            *top = if x > *top { x } else { *top };
        }
    }
    let top = tops.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let mut total = 0.0f64;
    for (few, first) in seen.chunks(SUMMED).zip((0..).step_by(SUMMED)) {
        let mut sums = [0.0f32; KEYS];
        for (panel, &seen) in (first..).zip(few) {
            let lane = scores.lane_mut(panel, row);
            if seen == Seen::NOTHING {
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
    for panel in 0..seen.len() {
        scores.lane_mut(panel, row).iter_mut().for_each(|x| *x *= inverse);
    }
    (f64::from(scale * top) + total.ln()) as f32
}
vectorised!(forward, forward_row, (scores: &mut Accumulator, row: usize, seen: &[Seen], scale: f32) -> f32);

/// What a row's softmax was made of, and its gradient from outside.
#[derive(Clone, Copy)]
pub(super) struct Row {
    pub(super) row: usize,
    pub(super) scale: f32,
    /// The log-sum-exp.
    pub(super) lse: f32,
    /// The sum of each weight times its gradient.
    pub(super) inner: f32,
}

/// A row of `scores` becomes the softmax again, and one of `d`, the gradient of the weights, that of the scores.
#[inline(always)]
fn backward_row(scores: &mut Accumulator, d: &mut Accumulator, row: Row, seen: &[Seen]) {
    let Row { row, scale, lse, inner } = row;
    for (panel, &seen) in seen.iter().enumerate() {
        let (weights, d) = (scores.lane_mut(panel, row), d.lane_mut(panel, row));
        if seen == Seen::NOTHING {
            [*weights, *d] = [[0.0; KEYS]; 2];
            continue;
        }
        weights.iter_mut().for_each(|x| *x = exp(scale * *x - lse));
        seen.hide(weights, 0.0);
        for (d, weight) in d.iter_mut().zip(&*weights) {
            *d = scale * weight * (*d - inner);
        }
    }
}
vectorised!(backward, backward_row, (scores: &mut Accumulator, d: &mut Accumulator, row: Row, seen: &[Seen]));
