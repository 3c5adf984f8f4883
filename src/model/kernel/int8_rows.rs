//! Activations for the 8-bit product: each row's 32 inputs on 255 steps between their extremes.
//!
//! `a = step * code + middle` with codes from -127 to 127. Steps of their own for every 32 inputs keep an
//! outlier's damage local, and the middle serves values that lie to one side: on SmolLM2 the two together
//! cost a tenth of the accuracy of one symmetric step a row.

use crate::model::ops::vectorised;

/// Inputs that share a step: of a row of activations, and of one output's weights.
pub(super) const BLOCK: usize = 32;

/// 32 activations of one row. Codes past the row's end are 0 and take no part in `total`.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(16))]
pub(super) struct RowBlock {
    pub(super) codes: [i8; BLOCK],
    pub(super) step: f32,
    pub(super) middle: f32,
    /// Sum of the rounded activations, `step * sum(codes) + count * middle`.
    pub(super) total: f32,
}

impl RowBlock {
    pub(super) const EMPTY: Self = Self { codes: [0; BLOCK], step: 0.0, middle: 0.0, total: 0.0 };
}

/// Quantises `x` of `(rows, inputs)` into `(rows, blocks)`.
pub(super) fn quantise(x: &[f32], inputs: usize) -> Vec<RowBlock> {
    let depth = inputs.div_ceil(BLOCK);
    let mut blocks = vec![RowBlock::EMPTY; x.len() / inputs * depth];
    quantise_rows(x, inputs, &mut blocks);
    blocks
}

#[inline(always)]
fn quantise_body(x: &[f32], inputs: usize, blocks: &mut [RowBlock]) {
    if blocks.is_empty() {
        return;
    }
    let depth = inputs.div_ceil(BLOCK);
    for (x, blocks) in x.chunks_exact(inputs).zip(blocks.chunks_exact_mut(depth)) {
        for (x, block) in x.chunks(BLOCK).zip(blocks) {
            match x.try_into() {
                Ok(x) => quantise_block(x, BLOCK, block),
                Err(_) => {
                    // A short last block is filled with its own first value, which moves no extreme.
                    let mut filled = [x[0]; BLOCK];
                    filled[..x.len()].copy_from_slice(x);
                    quantise_block(&filled, x.len(), block);
                }
            }
        }
    }
}
vectorised!(
    /// Quantises `x` of `(rows, inputs)` into `(rows, blocks)`; does nothing where there is no room at all.
    quantise_rows, quantise_body, (x: &[f32], inputs: usize, blocks: &mut [RowBlock]));

#[inline(always)]
fn quantise_block(x: &[f32; BLOCK], count: usize, block: &mut RowBlock) {
    let (mut low, mut high, mut sums) = ([f32::INFINITY; 8], [f32::NEG_INFINITY; 8], [0.0f32; 8]);
    for x in x.chunks_exact(8) {
        for i in 0..8 {
            low[i] = if x[i] < low[i] { x[i] } else { low[i] };
            high[i] = if x[i] > high[i] { x[i] } else { high[i] };
            sums[i] += x[i];
        }
    }
    let (low, high) =
        (low.into_iter().fold(f32::INFINITY, f32::min), high.into_iter().fold(f32::NEG_INFINITY, f32::max));
    block.step = (high - low) / 254.0;
    // The comparisons skip NaN; through the sum it reaches the middle, and so the result.
    block.middle = 0.5 * (high + low) + 0.0 * sums.iter().sum::<f32>();
    let inverse = if block.step > 0.0 { 1.0 / block.step } else { 0.0 };
    // Adding 1.5 * 2^23 leaves the nearest whole number in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let mut codes = [0i32; BLOCK];
    for (code, &x) in codes.iter_mut().zip(x) {
        let steps = ((x - block.middle) * inverse).clamp(-127.0, 127.0);
        *code = (steps + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    }
    codes[count..].fill(0);
    let mut sum = 0;
    for (byte, code) in block.codes.iter_mut().zip(codes) {
        *byte = code as i8;
        sum += i32::from(*byte);
    }
    block.total = block.step * sum as f32 + count as f32 * block.middle;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activations_come_back_within_half_a_step() {
        for inputs in [1usize, 31, 32, 33, 70] {
            let x: Vec<f32> = (0..3 * inputs).map(|i| (i as f32 * 1.7).sin() * (1.0 + i as f32)).collect();
            let depth = inputs.div_ceil(BLOCK);
            for (row, blocks) in quantise(&x, inputs).chunks_exact(depth).enumerate() {
                for (x, block) in x[row * inputs..][..inputs].chunks(BLOCK).zip(blocks) {
                    let back = block.codes.map(|code| block.step * f32::from(code) + block.middle);
                    let extreme = x.iter().fold(0.0f32, |most, x| most.max(x.abs()));
                    for (x, back) in x.iter().zip(back) {
                        assert!((x - back).abs() <= 0.5 * block.step + 1e-5 * extreme, "{x} came back as {back}");
                    }
                    assert!(block.codes[x.len()..].iter().all(|&code| code == 0));
                    let total: f32 = back[..x.len()].iter().sum();
                    assert!((total - block.total).abs() <= 1e-4 * extreme * x.len() as f32);
                }
            }
        }
    }

    #[test]
    fn what_is_no_number_stays_so() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = [1.0; 40];
            x[7] = bad;
            let blocks = quantise(&x, 40);
            assert!(blocks[0].middle.is_nan() && blocks[1].middle == 1.0, "{bad}: {blocks:?}");
        }
    }
}
