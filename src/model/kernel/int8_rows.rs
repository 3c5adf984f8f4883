//! Activations for the 8-bit product: each row's 32 inputs on 255 steps between their extremes.
//!
//! `a = step * code + middle` with codes from -127 to 127. Steps of their own for every 32 inputs keep an
//! outlier's damage local, and the middle serves values that lie to one side: the two together cost
//! a small part of the accuracy that one symmetric step a row does.

use super::isa::Isa;

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

/// Quantises `x` of `(rows, inputs)` into `(rows, blocks)`; does nothing where there is no room at all.
pub(super) fn quantise_rows(x: &[f32], inputs: usize, blocks: &mut [RowBlock]) {
    quantise_rows_with(Isa::detect(), x, inputs, blocks);
}

fn quantise_rows_with(isa: Isa, x: &[f32], inputs: usize, blocks: &mut [RowBlock]) {
    if blocks.is_empty() {
        return;
    }
    let depth = inputs.div_ceil(BLOCK);
    for (x, blocks) in x.chunks_exact(inputs).zip(blocks.chunks_exact_mut(depth)) {
        for (x, block) in x.chunks(BLOCK).zip(blocks) {
            if let Ok(x) = x.try_into() {
                quantise_block(isa, x, BLOCK, block);
            } else {
                // A short last block is filled with its own first value, which moves no extreme.
                let mut filled = [x[0]; BLOCK];
                filled[..x.len()].copy_from_slice(x);
                quantise_block(isa, &filled, x.len(), block);
            }
        }
    }
}

/// What the codes of a block stand for.
#[derive(Clone, Copy)]
pub(super) struct Grid {
    pub(super) middle: f32,
    /// One over the step, 0 where all values are equal.
    pub(super) inverse: f32,
}

/// Least value, largest value and sum of a block. NaN passes the first two by and shows in the third.
pub(super) type Extent = [f32; 3];

fn quantise_block(isa: Isa, x: &[f32; BLOCK], count: usize, block: &mut RowBlock) {
    #[cfg(target_arch = "x86_64")]
    if isa != Isa::Portable {
        // SAFETY: every instruction set but the portable one has AVX2.
        let [low, high, sum] = unsafe { super::x86_int8::extent_avx2(x) };
        let grid = block.span(low, high, sum);
        // SAFETY: as above.
        unsafe { super::x86_int8::round_avx2(x, grid, &mut block.codes) };
        return block.close(count);
    }
    let _ = isa;
    let [low, high, sum] = extent(x);
    let grid = block.span(low, high, sum);
    for (code, x) in block.codes.iter_mut().zip(x) {
        *code = ((x - grid.middle) * grid.inverse).clamp(-127.0, 127.0).round_ties_even() as i8;
    }
    block.close(count);
}

fn extent(x: &[f32; BLOCK]) -> Extent {
    let low = x.iter().fold(f32::INFINITY, |low, &x| if x < low { x } else { low });
    let high = x.iter().fold(f32::NEG_INFINITY, |high, &x| if x > high { x } else { high });
    [low, high, x.iter().sum()]
}

impl RowBlock {
    /// Spreads the steps over values between `low` and `high`.
    fn span(&mut self, low: f32, high: f32, sum: f32) -> Grid {
        self.step = (high - low) / 254.0;
        // Where a value is no number the sum is none either: so the middle becomes none, and the result.
        self.middle = 0.5 * (high + low) + 0.0 * sum;
        Grid { middle: self.middle, inverse: if self.step > 0.0 { 1.0 / self.step } else { 0.0 } }
    }

    /// Forgets the codes from `count` on, and sums up.
    fn close(&mut self, count: usize) {
        self.codes[count..].fill(0);
        let sum: i32 = self.codes.iter().map(|&code| i32::from(code)).sum();
        self.total = self.step * sum as f32 + count as f32 * self.middle;
    }
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
    fn every_instruction_set_rounds_alike() {
        let x: Vec<f32> = (0..7 * 90).map(|i| (i as f32 * 2.3).sin() * (i % 17) as f32).collect();
        let with = |isa: Isa| {
            let mut blocks = vec![RowBlock::EMPTY; 7 * 3];
            quantise_rows_with(isa, &x, 90, &mut blocks);
            format!("{blocks:?}")
        };
        assert!(Isa::all().into_iter().all(|isa| with(isa) == with(Isa::Portable)));
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
