//! Quantisation of weights: a block of 32 on at most 16 or 128 steps.

use super::layout::BLOCK_INPUTS;
use crate::kernels::ops::vectorised;
use half::f16;

/// 32 quantised weights of one output.
pub(super) struct QuantisedBlock {
    pub(super) step: f16,
    pub(super) floor: f16,
    pub(super) codes: [u8; BLOCK_INPUTS],
    /// Largest distance of a weight from its step, in steps.
    error: f32,
}

/// Adding and subtracting 1.5 * 2^23 rounds to the nearest integer.
const ROUND: f32 = 12_582_912.0;

/// Rounds `weights` to steps of `1 / inverse` above `floor`, from 0 to `levels`. Returns the largest distance from a
/// step, in steps.
#[inline(always)]
fn round_body(weights: &[f32], codes: &mut [u8], floor: f32, inverse: f32, levels: f32) -> f32 {
    let mut errors = [0.0f32; 8];
    for (codes, weights) in codes.chunks_mut(8).zip(weights.chunks(8)) {
        for ((error, code), weight) in errors.iter_mut().zip(codes).zip(weights) {
            let steps = (weight - floor) * inverse;
            let nearest = ((steps + ROUND) - ROUND).clamp(0.0, levels);
            *error = error.max((steps - nearest).abs());
            *code = nearest as i32 as u8;
        }
    }
    errors.into_iter().fold(0.0, f32::max)
}
vectorised!(round_to_steps, round_body, (weights: &[f32], codes: &mut [u8], floor: f32, inverse: f32, levels: f32) -> f32);

impl QuantisedBlock {
    /// Rounds to `levels` steps from the least to the largest weight.
    fn on(weights: &[f32], (low, high): (f32, f32), levels: u8) -> Self {
        let (step, floor) = (f16::from_f32((high - low) / f32::from(levels)), f16::from_f32(low));
        let mut fit = Self { step, floor, codes: [0; BLOCK_INPUTS], error: 0.0 };
        let (step, floor) = (step.to_f32(), floor.to_f32());
        let inverse = if step > 0.0 { 1.0 / step } else { 0.0 };
        fit.error = round_to_steps(weights, &mut fit.codes, floor, inverse, f32::from(levels));
        fit
    }

    /// Rounds to at most 16 steps if that loses next to nothing: an eighth of the error of 128 steps.
    pub(super) fn in_nibbles(weights: &[f32]) -> Option<Self> {
        let extremes = extremes(weights)?;
        (1..=15).rev().map(|levels| Self::on(weights, extremes, levels)).find(|fit| fit.error < 1.0 / 64.0)
    }

    /// Rounds to the best of 113 to 128 steps: where the weights were rounded to a grid before, one of them is exact.
    pub(super) fn in_bytes(weights: &[f32]) -> Self {
        let Some(extremes) = extremes(weights) else {
            // NaN must stay NaN.
            return Self { step: f16::ZERO, floor: f16::NAN, codes: [0; BLOCK_INPUTS], error: 0.0 };
        };
        let mut best = Self::on(weights, extremes, 127);
        for levels in (112..127).rev() {
            if best.error < 1.0 / 64.0 {
                break;
            }
            let fit = Self::on(weights, extremes, levels);
            // Errors are in steps, whose sizes differ.
            if fit.error * fit.step.to_f32() < best.error * best.step.to_f32() {
                best = fit;
            }
        }
        best
    }
}

/// The least and the largest of `weights`; none if one is not finite.
fn extremes(weights: &[f32]) -> Option<(f32, f32)> {
    let least = weights.iter().copied().fold(f32::INFINITY, f32::min);
    let largest = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    weights.iter().all(|weight| weight.is_finite()).then_some((least, largest))
}
