//! Rounding of weights to the steps of a block.

use super::layout::BLOCK_INPUTS;
use crate::kernels::ops::vectorised;
use half::f16;

/// 32 weights of one output on the steps of a block.
pub(super) struct QuantisedBlock {
    pub(super) step: f16,
    pub(super) floor: f16,
    pub(super) codes: [u8; BLOCK_INPUTS],
    /// Largest distance of a weight from its step, in steps.
    error: f32,
}

/// Added and taken away again, 1.5 * 2^23 leaves the nearest whole number.
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
    /// The weights on `levels` steps from the least to the largest of them.
    fn on(weights: &[f32], (low, high): (f32, f32), levels: u8) -> Self {
        let (step, floor) = (f16::from_f32((high - low) / f32::from(levels)), f16::from_f32(low));
        let mut fit = Self { step, floor, codes: [0; BLOCK_INPUTS], error: 0.0 };
        let (step, floor) = (step.to_f32(), floor.to_f32());
        let inverse = if step > 0.0 { 1.0 / step } else { 0.0 };
        fit.error = round_to_steps(weights, &mut fit.codes, floor, inverse, f32::from(levels));
        fit
    }

    /// The fit on at most 16 steps that loses nothing to speak of: an eighth of what 128 steps would lose.
    pub(super) fn in_nibbles(weights: &[f32]) -> Option<Self> {
        let extremes = extremes(weights)?;
        (1..=15).rev().map(|levels| Self::on(weights, extremes, levels)).find(|fit| fit.error < 1.0 / 64.0)
    }

    /// The best fit on at most 128 steps. A few more or less make a grid exact that the weights lie on already.
    pub(super) fn in_bytes(weights: &[f32]) -> Self {
        let Some(extremes) = extremes(weights) else {
            // What is no number must stay so.
            return Self { step: f16::ZERO, floor: f16::NAN, codes: [0; BLOCK_INPUTS], error: 0.0 };
        };
        let mut best = Self::on(weights, extremes, 127);
        for levels in (112..127).rev() {
            if best.error < 1.0 / 64.0 {
                break;
            }
            let fit = Self::on(weights, extremes, levels);
            // Errors are in steps, and steps differ in size.
            if fit.error * fit.step.to_f32() < best.error * best.step.to_f32() {
                best = fit;
            }
        }
        best
    }
}

/// The least and the largest of `weights`; none where one is no finite number.
fn extremes(weights: &[f32]) -> Option<(f32, f32)> {
    let least = weights.iter().copied().fold(f32::INFINITY, f32::min);
    let largest = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    weights.iter().all(|weight| weight.is_finite()).then_some((least, largest))
}
