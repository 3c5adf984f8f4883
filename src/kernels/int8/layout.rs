//! Codes and scales of the 8-bit product, as tiles read them.

use crate::kernels::layout::{Line, PANEL};

/// Codes of 16 outputs: four inputs of each in bytes, or eight in nibbles, the first four in the low halves.
pub(super) type WeightCodes = Line<[u8; 64]>;

/// Steps and floors of one block of 16 outputs, as bits of f16.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub(super) struct Scales {
    pub(super) step: [u16; PANEL],
    pub(super) floor: [u16; PANEL],
}

/// One panel: `blocks` scales, and 4 lines of nibbles or 8 of bytes for each.
#[derive(Clone, Copy, Debug)]
pub(super) struct Int8Panel<'a> {
    pub(super) codes: &'a [WeightCodes],
    pub(super) scales: &'a [Scales],
    pub(super) unit: f32,
}

impl Int8Panel<'_> {
    /// Lines of a block's codes: 4 of nibbles, 8 of bytes.
    pub(super) fn lines(&self) -> usize {
        let lines = self.codes.len() / self.scales.len();
        assert!(matches!(lines, 4 | 8) && self.codes.len() == lines * self.scales.len(), "codes are whole blocks");
        lines
    }
}

/// Inputs that share a step, both of a row of activations and of one output's weights.
pub(crate) const BLOCK_INPUTS: usize = 32;

/// 32 activations of one row. Codes past the row's end are 0.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub(crate) struct RowBlock {
    pub(super) codes: [i8; BLOCK_INPUTS],
    pub(super) step: f32,
    /// Sum of the codes, an integer.
    pub(super) sum: f32,
}

impl RowBlock {
    pub(super) const EMPTY: Self = Self { codes: [0; BLOCK_INPUTS], step: 0.0, sum: 0.0 };
}

/// Rows of a [`Row8`]: the lanes of an AVX2 register.
pub(crate) const ROW8: usize = 8;

/// 32 activations of eight rows, interleaved for the tile whose lanes are rows.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(32))]
pub(crate) struct Row8 {
    /// For each group of four inputs, four codes of each row.
    pub(super) codes: [[[i8; 4]; ROW8]; BLOCK_INPUTS / 4],
    pub(super) step: [f32; ROW8],
    pub(super) sum: [f32; ROW8],
}

impl Row8 {
    pub(super) const EMPTY: Self =
        Self { codes: [[[0; 4]; ROW8]; BLOCK_INPUTS / 4], step: [0.0; ROW8], sum: [0.0; ROW8] };

    /// Copies the block of one row.
    pub(super) fn set(&mut self, row: usize, block: &RowBlock) {
        for (group, codes) in self.codes.iter_mut().zip(block.codes.as_chunks::<4>().0) {
            group[row] = *codes;
        }
        (self.step[row], self.sum[row]) = (block.step, block.sum);
    }
}

impl RowBlock {
    /// Sets the step for values of at most `largest`, which is not finite if one of them is not. Returns one over the
    /// step; 0 if all codes are.
    #[inline(always)]
    pub(super) fn set_step(&mut self, largest: f32) -> f32 {
        // The product with a step that is not finite is not a number.
        self.step = largest / 127.0;
        let inverse = 1.0 / self.step;
        if inverse.is_finite() { inverse } else { 0.0 }
    }

    /// Clears the codes from `count` on and sets the sum; `all` is the sum of all codes before.
    #[inline(always)]
    pub(super) fn set_sum(&mut self, count: usize, all: i32) {
        self.sum = (all - sum(&self.codes[count..])) as f32;
        self.codes[count..].fill(0);
    }
}

pub(super) fn sum(codes: &[i8]) -> i32 {
    codes.iter().map(|&code| i32::from(code)).sum()
}
