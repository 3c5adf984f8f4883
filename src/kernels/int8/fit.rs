//! Quantisation of weights: a block of 32 on at most 16 or 128 steps.

use super::layout::BLOCK_INPUTS;
use crate::kernels::matrix_rows::CodedBlock;
use crate::kernels::ops::vectorised;
use half::f16;

/// 32 quantised weights of one output.
#[derive(Clone, Copy)]
pub(super) struct QuantisedBlock {
    pub(super) step: f16,
    pub(super) floor: f16,
    pub(super) codes: [u8; BLOCK_INPUTS],
}

/// The largest code: the number of steps, and the least number that is tried.
const CODE_MAX: u8 = 127;
const LEVELS_MIN: u8 = 112;
const LEVELS: f32 = CODE_MAX as f32;
/// Error, in steps, below which a block is on its steps: an eighth of that of rounding to 128 steps.
const ON_STEPS: f32 = 1.0 / 64.0;
/// Adding and subtracting 1.5 * 2^23 rounds to the nearest integer.
const ROUND: f32 = 12_582_912.0;

/// The larger one; the second if one is NaN.
#[inline(always)]
fn larger(one: f32, other: f32) -> f32 {
    if one > other { one } else { other }
}

/// The largest of 32 values, by halves: a chain of 32 comparisons would take as long as all else.
#[inline(always)]
fn largest(values: &[f32; BLOCK_INPUTS]) -> f32 {
    let mut halves = *values;
    let mut count = BLOCK_INPUTS / 2;
    while count > 0 {
        for at in 0..count {
            halves[at] = larger(halves[at], halves[at + count]);
        }
        count /= 2;
    }
    halves[0]
}

/// The largest distance of `weights` from one of `levels` steps of `1 / inverse` above `floor`, in steps.
#[inline(always)]
fn error(weights: &[f32; BLOCK_INPUTS], floor: f32, inverse: f32, levels: f32) -> f32 {
    let mut errors = [0.0f32; BLOCK_INPUTS];
    for (error, weight) in errors.iter_mut().zip(weights) {
        let steps = (weight - floor) * inverse;
        *error = (steps - ((steps + ROUND) - ROUND).clamp(0.0, levels)).abs();
    }
    largest(&errors)
}

/// `value`, which is not negative, rounded to f16. The conversion itself is a call, which costs more than a loop over a block.
#[inline(always)]
fn rounded(value: f32) -> f32 {
    /// Bits of an f32's mantissa that an f16 has not.
    const LOST: u32 = 13;
    if !(f16::MIN_POSITIVE.to_f32_const()..=f16::MAX.to_f32_const()).contains(&value) {
        return f16::from_f32(value).to_f32();
    }
    let bits = value.to_bits();
    // To the nearest, ties to even.
    let half = (1 << (LOST - 1)) - 1 + (bits >> LOST & 1);
    f32::from_bits((bits + half) >> LOST << LOST)
}

impl QuantisedBlock {
    const ZERO: Self = Self { step: f16::ZERO, floor: f16::ZERO, codes: [0; BLOCK_INPUTS] };

    /// Rounds to `levels` steps from the least to the largest weight.
    #[inline(always)]
    fn on(weights: &[f32; BLOCK_INPUTS], (low, high): (f32, f32), levels: f32) -> Self {
        let mut block = Self { step: f16::from_f32((high - low) / levels), floor: f16::from_f32(low), ..Self::ZERO };
        let (floor, inverse) = block.grid();
        for (code, weight) in block.codes.iter_mut().zip(weights) {
            let nearest = (((weight - floor) * inverse + ROUND) - ROUND).clamp(0.0, levels);
            *code = nearest as i32 as u8;
        }
        block
    }

    /// The floor, and one over the step; 0 if all weights are equal.
    #[inline(always)]
    fn grid(&self) -> (f32, f32) {
        let step = self.step.to_f32();
        (self.floor.to_f32(), if step > 0.0 { 1.0 / step } else { 0.0 })
    }

    /// Rounds to at most 16 steps if that loses next to nothing.
    #[inline(always)]
    fn in_nibbles(weights: &[f32; BLOCK_INPUTS]) -> Option<Self> {
        let extremes = extremes(weights)?;
        for levels in (1..=15u8).rev() {
            let levels = f32::from(levels);
            let block = Self::on(weights, extremes, levels);
            let (floor, inverse) = block.grid();
            if error(weights, floor, inverse, levels) < ON_STEPS {
                return Some(block);
            }
        }
        None
    }

    /// Rounds to the best of 113 to 128 steps: where the weights were rounded to a grid before, one of them is exact.
    #[inline(always)]
    fn in_bytes(weights: &[f32; BLOCK_INPUTS]) -> Self {
        match extremes(weights) {
            Some(extremes) => Self::on_best(weights, extremes),
            // NaN must stay NaN.
            None => Self { floor: f16::NAN, ..Self::ZERO },
        }
    }

    #[inline(always)]
    fn on_best(weights: &[f32; BLOCK_INPUTS], (low, high): (f32, f32)) -> Self {
        let floor = f16::from_f32(low).to_f32();
        let (mut best, mut best_levels) = (f32::INFINITY, LEVELS);
        for levels in (LEVELS_MIN..=CODE_MAX).rev() {
            let levels = f32::from(levels);
            let step = rounded((high - low) / levels);
            let error = error(weights, floor, if step > 0.0 { 1.0 / step } else { 0.0 }, levels);
            // Errors are in steps, whose sizes differ.
            if error * step < best {
                (best, best_levels) = (error * step, levels);
            }
            if error < ON_STEPS {
                break;
            }
        }
        Self::on(weights, (low, high), best_levels)
    }

    /// The weights of a file's block, divided by the unit: as they are if the codes span at most 128, else rounded.
    #[inline(always)]
    fn of_codes(block: &CodedBlock, inverse_unit: f32, largest_code: u8) -> Self {
        let (step, floor) = (block.step * inverse_unit, block.floor * inverse_unit);
        let (mut low, mut high) = (u8::MAX, u8::MIN);
        for &code in &block.codes {
            (low, high) = (low.min(code), high.max(code));
        }
        if largest_code <= CODE_MAX {
            low = 0;
        }
        let lowest = step * f32::from(low) + floor;
        if largest_code <= CODE_MAX || high - low <= CODE_MAX {
            let mut codes = block.codes;
            for code in &mut codes {
                *code -= low;
            }
            return Self { step: f16::from_f32(step), floor: f16::from_f32(lowest), codes };
        }
        let mut weights = [0.0; BLOCK_INPUTS];
        for (weight, code) in weights.iter_mut().zip(block.codes) {
            *weight = step * f32::from(code) + floor;
        }
        let highest = step * f32::from(high) + floor;
        Self::on_best(&weights, (lowest.min(highest), lowest.max(highest)))
    }
}

/// The least and the largest of `weights`; none if one is not finite.
#[inline(always)]
fn extremes(weights: &[f32; BLOCK_INPUTS]) -> Option<(f32, f32)> {
    let mut negated = [0.0; BLOCK_INPUTS];
    let mut nothing = [0.0; BLOCK_INPUTS];
    for ((weight, negated), nothing) in weights.iter().zip(&mut negated).zip(&mut nothing) {
        (*negated, *nothing) = (-weight, (weight * 0.0).abs());
    }
    let is_finite = nothing.iter().all(|value| *value == 0.0);
    is_finite.then_some((-largest(&negated), largest(weights)))
}

/// The block `index` of a row, and how many of its weights are the row's: a short last one is padded with its first
/// weight, which changes no extreme.
#[inline(always)]
fn block(weights: &[f32], index: usize) -> ([f32; BLOCK_INPUTS], usize) {
    let weights = &weights[index * BLOCK_INPUTS..];
    if let Some(whole) = weights.first_chunk() {
        return (*whole, BLOCK_INPUTS);
    }
    let mut padded = [weights[0]; BLOCK_INPUTS];
    padded[..weights.len()].copy_from_slice(weights);
    (padded, weights.len())
}

#[inline(always)]
fn nibbles_body(weights: &[f32], blocks: &mut [QuantisedBlock]) -> bool {
    for (index, to) in blocks.iter_mut().enumerate() {
        let (weights, count) = block(weights, index);
        let Some(fit) = QuantisedBlock::in_nibbles(&weights) else { return false };
        *to = fit;
        to.codes[count..].fill(0);
    }
    true
}
vectorised!(
    /// Rounds a row to at most 16 steps a block. Returns whether that loses next to nothing; if not, the blocks are
    /// unspecified.
    fit_nibbles, nibbles_body, (weights: &[f32], blocks: &mut [QuantisedBlock]) -> bool
);

#[inline(always)]
fn bytes_body(weights: &[f32], blocks: &mut [QuantisedBlock]) {
    for (index, to) in blocks.iter_mut().enumerate() {
        let (weights, count) = block(weights, index);
        *to = QuantisedBlock::in_bytes(&weights);
        to.codes[count..].fill(0);
    }
}
vectorised!(
    /// Rounds a row to 128 steps a block.
    fit_bytes, bytes_body, (weights: &[f32], blocks: &mut [QuantisedBlock])
);

#[inline(always)]
fn codes_body(row: &[CodedBlock], inverse_unit: f32, largest_code: u8, blocks: &mut [QuantisedBlock]) {
    for (block, coded) in blocks.iter_mut().zip(row) {
        *block = QuantisedBlock::of_codes(coded, inverse_unit, largest_code);
    }
}
vectorised!(
    /// A row that a file stores in codes, divided by the unit.
    fit_codes, codes_body, (row: &[CodedBlock], inverse_unit: f32, largest_code: u8, blocks: &mut [QuantisedBlock])
);

/// Memory for the blocks of a row.
pub(super) fn blocks(count: usize) -> Vec<QuantisedBlock> {
    vec![QuantisedBlock::ZERO; count]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_that_of_the_conversion_to_f16() {
        let edges = [0.0, 1e-9, 5e-8, 3e-5, 6.1e-5, 6.2e-5, 1.000_488_3, 1.001_464_8, 65_519.0, 65_520.0, 1e6];
        let many = (0..4096u32).map(|i| f32::from_bits(0x3f80_0000 + i * 1021));
        for value in edges.into_iter().chain(many) {
            assert_eq!(rounded(value), f16::from_f32(value).to_f32(), "{value}");
        }
    }
}
