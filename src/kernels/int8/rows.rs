//! Quantisation of activations: 32 inputs of a row on 255 steps around zero.
//!
//! `a = step * code` with codes from -127 to 127. A step for every 32 inputs confines the error of an outlier.
//! Where a tile's lanes are rows, eight rows are interleaved; the rows that are left over are stored one by one.

use super::layout::{BLOCK_INPUTS, ROW8, Row8, RowBlock, sum};
use crate::kernels::isa::Isa;

/// Quantised rows. Their memory is reused.
#[derive(Debug, Default)]
pub(crate) struct QuantisedRows {
    /// `(row8s, blocks)`: the first rows, if the instruction set has tiles of eight rows.
    pub(crate) row8s: Vec<Row8>,
    /// `(rows, blocks)`: the others.
    pub(crate) rows: Vec<RowBlock>,
}

/// Some rows of [`QuantisedRows`], mutable.
#[derive(Default)]
pub(crate) struct QuantisedRowsMut<'a> {
    row8s: &'a mut [Row8],
    rows: &'a mut [RowBlock],
}

impl QuantisedRows {
    /// Quantises `x` of `(rows, inputs)` for the tiles of `isa`.
    pub(crate) fn of(isa: Isa, x: &[f32], inputs: usize) -> Self {
        let mut codes = Self::default();
        let rows = x.len() / inputs;
        codes.resize(isa, rows, inputs.div_ceil(BLOCK_INPUTS));
        codes.split_mut(rows, inputs).into_iter().for_each(|mut part| part.quantise(isa, x, inputs));
        codes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.row8s.is_empty() && self.rows.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.row8s.clear();
        self.rows.clear();
    }

    /// Resizes to `rows` rows of `depth` blocks with unspecified values, for the tiles of `isa`.
    pub(crate) fn resize(&mut self, isa: Isa, rows: usize, depth: usize) {
        let row8s = if isa.uses_row8() { rows / ROW8 } else { 0 };
        self.row8s.resize(row8s * depth, Row8::EMPTY);
        self.rows.resize((rows - row8s * ROW8) * depth, RowBlock::EMPTY);
    }

    /// Splits rows of `inputs` into parts of `size` rows, a multiple of eight.
    pub(crate) fn split_mut(&mut self, size: usize, inputs: usize) -> Vec<QuantisedRowsMut<'_>> {
        let depth = inputs.div_ceil(BLOCK_INPUTS);
        let (mut row8s, mut rows) = (self.row8s.as_mut_slice(), self.rows.as_mut_slice());
        let mut parts = vec![];
        while !row8s.is_empty() || !rows.is_empty() {
            let (part, rest) = row8s.split_at_mut((size / ROW8 * depth).min(row8s.len()));
            row8s = rest;
            let left = size - part.len() / depth * ROW8;
            let (row_part, rest) = rows.split_at_mut((left * depth).min(rows.len()));
            rows = rest;
            parts.push(QuantisedRowsMut { row8s: part, rows: row_part });
        }
        parts
    }
}

impl QuantisedRowsMut<'_> {
    /// Quantises `x` of `(rows, inputs)` into the part's rows; does nothing if the part is empty.
    pub(crate) fn quantise(&mut self, isa: Isa, x: &[f32], inputs: usize) {
        let depth = inputs.div_ceil(BLOCK_INPUTS);
        let mut rows = x.chunks_exact(inputs);
        for row8 in self.row8s.chunks_exact_mut(depth) {
            for (row, x) in rows.by_ref().take(ROW8).enumerate() {
                let mut block = RowBlock::EMPTY;
                for (x, row8) in x.chunks(BLOCK_INPUTS).zip(row8.iter_mut()) {
                    quantise_chunk(isa, x, &mut block);
                    row8.set(row, &block);
                }
            }
        }
        for (x, blocks) in rows.zip(self.rows.chunks_exact_mut(depth)) {
            x.chunks(BLOCK_INPUTS).zip(blocks).for_each(|(x, block)| quantise_chunk(isa, x, block));
        }
    }
}

/// Quantises a block, which may be a row's short last one.
fn quantise_chunk(isa: Isa, x: &[f32], block: &mut RowBlock) {
    if let Ok(x) = x.try_into() {
        return quantise_block(isa, x, BLOCK_INPUTS, block);
    }
    // A short block is padded with its first value, which changes no extreme.
    let mut filled = [x[0]; BLOCK_INPUTS];
    filled[..x.len()].copy_from_slice(x);
    quantise_block(isa, &filled, x.len(), block);
}

/// Quantises a block of which the first `count` values count.
fn quantise_block(isa: Isa, x: &[f32; BLOCK_INPUTS], count: usize, block: &mut RowBlock) {
    #[cfg(target_arch = "x86_64")]
    if isa != Isa::Portable {
        // SAFETY: every instruction set but the portable one has AVX2.
        return unsafe { super::x86::quantise_avx2(x, count, block) };
    }
    let _ = isa;
    let inverse = block.set_step(largest(x));
    for (code, x) in block.codes.iter_mut().zip(x) {
        *code = (x * inverse).clamp(-127.0, 127.0).round_ties_even() as i8;
    }
    block.set_sum(count, sum(&block.codes));
}

/// The largest absolute value: as bits, infinity is larger than any number, and what is not a number larger still.
fn largest(x: &[f32; BLOCK_INPUTS]) -> f32 {
    f32::from_bits(x.iter().map(|x| x.abs().to_bits()).max().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activations_come_back_within_half_a_step() {
        for inputs in [1usize, 31, 32, 33, 70] {
            let x: Vec<f32> = (0..3 * inputs).map(|i| (i as f32 * 1.7).sin() * (1.0 + i as f32)).collect();
            let depth = inputs.div_ceil(BLOCK_INPUTS);
            for (row, blocks) in QuantisedRows::of(Isa::detect(), &x, inputs).rows.chunks_exact(depth).enumerate() {
                for (x, block) in x[row * inputs..][..inputs].chunks(BLOCK_INPUTS).zip(blocks) {
                    let back = block.codes.map(|code| block.step * f32::from(code));
                    let extreme = x.iter().fold(0.0f32, |most, x| most.max(x.abs()));
                    for (x, back) in x.iter().zip(back) {
                        assert!((x - back).abs() <= 0.5 * block.step + 1e-5 * extreme, "{x} came back as {back}");
                    }
                    assert!(block.codes[x.len()..].iter().all(|&code| code == 0));
                    assert_eq!(block.sum, sum(&block.codes) as f32);
                }
            }
        }
    }

    /// Row `row` of `row8s` as it would be stored by itself.
    fn row_of(row8s: &[Row8], row: usize) -> Vec<RowBlock> {
        let one = |row8: &Row8| RowBlock {
            codes: std::array::from_fn(|input| row8.codes[input / 4][row][input % 4]),
            step: row8.step[row],
            sum: row8.sum[row],
        };
        row8s.iter().map(one).collect()
    }

    #[test]
    fn every_instruction_set_rounds_alike_eight_rows_and_one() {
        let (rows, inputs, depth) = (27, 90, 3);
        let x: Vec<f32> = (0..rows * inputs).map(|i| (i as f32 * 2.3).sin() * (i % 17) as f32).collect();
        let with = |isa: Isa, size: usize| {
            let mut codes = QuantisedRows::default();
            codes.resize(isa, rows, depth);
            let parts = codes.split_mut(size, inputs).into_iter().zip(x.chunks(size * inputs));
            parts.for_each(|(mut part, x)| part.quantise(isa, x, inputs));
            let row8s = codes.row8s.chunks_exact(depth).flat_map(|row8s| (0..ROW8).flat_map(|row| row_of(row8s, row)));
            format!("{:?}", row8s.chain(codes.rows.iter().copied()).collect::<Vec<_>>())
        };
        let alone = with(Isa::Portable, 8);
        for isa in Isa::all() {
            assert!([8, 16, 32].into_iter().all(|size| with(isa, size) == alone), "{isa:?}");
        }
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = [1.0; 40];
            x[7] = bad;
            let blocks = QuantisedRows::of(Isa::detect(), &x, 40).rows;
            assert!(!blocks[0].step.is_finite() && blocks[1].step.is_finite(), "{bad}: {blocks:?}");
            assert_eq!(blocks[1].codes[..8], [127; 8]);
        }
    }
}
