//! Packing rows in panels, as they are read.
//!
//! A first pass over the rows finds the unit, a second whether nibbles hold all codes, which ends with the first panel where
//! they do not, and a third packs them. Where a file has codes for each 32 inputs, these
//! are the panel's codes too, with the file's own steps and floors; all else is rounded.

use super::Int8Matrix;
use super::fit::{self, QuantisedBlock, fit_bytes, fit_codes, fit_nibbles};
use super::layout::{BLOCK_INPUTS, Scales, WeightCodes};
use crate::kernels::huge_pages::filled;
use crate::kernels::layout::{Line, PANEL};
use crate::kernels::matrix_rows::{CODED_INPUTS, CodedBlock, StackedRows};
use rayon::prelude::*;

const _: () = assert!(CODED_INPUTS == BLOCK_INPUTS, "a file's blocks are the panel's");

/// The largest code that a nibble holds.
const NIBBLE_MAX: u8 = 15;

/// Memory for the rows of a panel.
struct Scratch {
    /// `(16, inputs)`.
    values: Vec<f32>,
    /// `(16, blocks)`.
    coded: Vec<CodedBlock>,
    /// The blocks of one row.
    row: Vec<QuantisedBlock>,
}

impl Scratch {
    fn new(inputs: usize) -> Self {
        let depth = inputs.div_ceil(BLOCK_INPUTS);
        let (values, coded) = (vec![0.0; PANEL * inputs], vec![CodedBlock::ZERO; PANEL * depth]);
        Self { values, coded, row: fit::blocks(depth) }
    }
}

impl Int8Matrix {
    /// Packs rows as they are read, on all threads.
    ///
    /// # Errors
    /// If rows cannot be read.
    pub(in crate::kernels) fn read<E: Send>(rows: StackedRows<'_, E>) -> Result<Self, E> {
        let (inputs, outputs, depth) = (rows.inputs, rows.outputs(), rows.inputs.div_ceil(BLOCK_INPUTS));
        let each = || (0..rows.panels()).into_par_iter();
        let most = each().try_fold(|| 0.0, |most, panel| rows.largest(panel).map(|own| f32::max(most, own)));
        let inverse_unit = 1.0 / unit(most.try_reduce(|| 0.0, |one, other| Ok(one.max(other)))?);
        let in_nibbles = |panel| rows.in_nibbles(panel, inverse_unit);
        let nibbles = match each().map(in_nibbles).find_any(|is| !matches!(is, Ok(true))) {
            None => true,
            Some(Ok(_)) => false,
            Some(Err(error)) => return Err(error),
        };
        let lines = if nibbles { 4 } else { 8 };
        let mut codes = filled(rows.panels() * depth * lines, Line([0; 64]));
        let mut scales = filled(rows.panels() * depth, Scales::default());
        let panels = codes.par_chunks_mut(depth * lines).zip(scales.par_chunks_mut(depth)).enumerate();
        panels.try_for_each_init(
            || Scratch::new(inputs),
            |scratch, (panel, (codes, scales))| {
                rows.each_row(panel, scratch, inverse_unit, nibbles, |output, row| {
                    write_row(row, output, nibbles, codes, scales);
                })
            },
        )?;
        Ok(Self { codes, scales, nibbles, unit: 1.0 / inverse_unit, outputs, inputs })
    }
}

impl<E: Send> StackedRows<'_, E> {
    /// A bound of the magnitude of a panel's weights, near it.
    fn largest(&self, panel: usize) -> Result<f32, E> {
        let Scratch { mut values, mut coded, .. } = Scratch::new(self.inputs);
        let mut most = 0.0f32;
        for (_, part, rows) in self.in_panel(panel) {
            if let Some(code) = part.largest_code() {
                let coded = &mut coded[..rows.len() * (self.inputs / BLOCK_INPUTS)];
                part.blocks(rows, coded)?;
                for CodedBlock { step, floor, .. } in coded {
                    most = most.max(floor.abs()).max((*floor + *step * f32::from(code)).abs());
                }
            } else {
                let values = &mut values[..rows.len() * self.inputs];
                part.values(rows, values)?;
                most = values.iter().fold(most, |most, value| most.max(value.abs()));
            }
        }
        Ok(most)
    }

    /// Whether a panel's weights are on at most 16 steps a block.
    fn in_nibbles(&self, panel: usize, inverse_unit: f32) -> Result<bool, E> {
        if self.in_panel(panel).any(|(_, part, _)| part.largest_code().is_some_and(|code| code > NIBBLE_MAX)) {
            return Ok(false);
        }
        let Scratch { mut values, mut row, .. } = Scratch::new(self.inputs);
        for (_, part, rows) in self.in_panel(panel).filter(|(_, part, _)| part.largest_code().is_none()) {
            let values = &mut values[..rows.len() * self.inputs];
            part.values(rows, values)?;
            values.iter_mut().for_each(|value| *value *= inverse_unit);
            if !values.chunks_exact(self.inputs).all(|values| fit_nibbles(values, &mut row)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Calls `write` with each of a panel's rows, quantised.
    fn each_row(
        &self,
        panel: usize,
        scratch: &mut Scratch,
        inverse_unit: f32,
        nibbles: bool,
        mut write: impl FnMut(usize, &[QuantisedBlock]),
    ) -> Result<(), E> {
        let Scratch { values, coded, row } = scratch;
        for (first, part, rows) in self.in_panel(panel) {
            if let Some(code) = part.largest_code() {
                let depth = self.inputs / BLOCK_INPUTS;
                let coded = &mut coded[..rows.len() * depth];
                part.blocks(rows, coded)?;
                for (output, coded) in coded.chunks_exact(depth).enumerate() {
                    fit_codes(coded, inverse_unit, code, row);
                    write(first + output, row);
                }
                continue;
            }
            let values = &mut values[..rows.len() * self.inputs];
            part.values(rows, values)?;
            values.iter_mut().for_each(|value| *value *= inverse_unit);
            for (output, values) in values.chunks_exact(self.inputs).enumerate() {
                if !(nibbles && fit_nibbles(values, row)) {
                    fit_bytes(values, row);
                }
                write(first + output, row);
            }
        }
        Ok(())
    }
}

/// Writes the blocks of the row `output` of a panel.
fn write_row(row: &[QuantisedBlock], output: usize, nibbles: bool, codes: &mut [WeightCodes], scales: &mut [Scales]) {
    let lines = if nibbles { 4 } else { 8 };
    for ((block, codes), scales) in row.iter().zip(codes.chunks_exact_mut(lines)).zip(scales) {
        scales.step[output] = block.step.to_bits();
        scales.floor[output] = block.floor.to_bits();
        let fours = block.codes.as_chunks::<4>().0;
        for (line, to) in codes.iter_mut().enumerate() {
            let to = &mut to.0[output * 4..][..4];
            if nibbles {
                let [low, high] = [fours[2 * line], fours[2 * line + 1]];
                to.iter_mut().zip(low).zip(high).for_each(|((to, low), high)| *to = low | high << 4);
            } else {
                to.copy_from_slice(&fours[line]);
            }
        }
    }
}

/// A power of two near 2^-8 of the largest weight: steps and floors are then well within the range of f16.
fn unit(most: f32) -> f32 {
    if most.is_normal() { (most.log2().floor() - 8.0).max(-126.0).exp2() } else { 1.0 }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::kernels::matrix_rows::MatrixRows;
    use std::convert::Infallible;
    use std::ops::Range;

    /// Rows in codes up to `largest`.
    struct CodedRows {
        largest: u8,
        blocks: Vec<CodedBlock>,
        depth: usize,
    }

    impl CodedRows {
        fn new(outputs: usize, depth: usize, largest: u8) -> Self {
            let block = |index: usize| {
                // Steps of both signs, as files have them, and floors of one sign or in the middle.
                let step = (1.0 + index as f32 % 7.0) * if index.is_multiple_of(3) { -0.001 } else { 0.001 };
                let code = |input: usize| (index * 37 + input * 11) as u32 * 97 % (u32::from(largest) + 1);
                CodedBlock {
                    step: half::f16::from_f32(step).to_f32(),
                    floor: half::f16::from_f32(-step * (index % 5 * usize::from(largest) / 4) as f32).to_f32(),
                    codes: std::array::from_fn(|input| code(input) as u8),
                }
            };
            Self { largest, blocks: (0..outputs * depth).map(block).collect(), depth }
        }

        fn all(&self) -> Vec<f32> {
            let values = |block: &CodedBlock| block.codes.map(|code| block.step * f32::from(code) + block.floor);
            self.blocks.iter().flat_map(values).collect()
        }
    }

    impl MatrixRows for CodedRows {
        type Error = Infallible;

        fn outputs(&self) -> usize {
            self.blocks.len() / self.depth
        }

        fn largest_code(&self) -> Option<u8> {
            Some(self.largest)
        }

        fn values(&self, _: Range<usize>, _: &mut [f32]) -> Result<(), Infallible> {
            unreachable!("rows in codes are read as codes")
        }

        fn blocks(&self, rows: Range<usize>, out: &mut [CodedBlock]) -> Result<(), Infallible> {
            out.copy_from_slice(&self.blocks[rows.start * self.depth..rows.end * self.depth]);
            Ok(())
        }
    }

    #[test]
    fn codes_of_a_file_give_the_rows_that_their_values_give() {
        let (outputs, depth) = (37, 3);
        for largest in [15, 31, 127, 255] {
            let rows = CodedRows::new(outputs, depth, largest);
            let (values, inputs) = (rows.all(), depth * BLOCK_INPUTS);
            let parts: [&dyn MatrixRows<Error = Infallible>; 1] = [&rows];
            let coded = Int8Matrix::read(StackedRows::new(&parts, inputs)).unwrap();
            let fitted = Int8Matrix::new(&[&values], inputs);
            assert_eq!(coded.is_in_nibbles(), largest == 15);
            let mut got = vec![[0.0; 2]; inputs];
            let (mut one, mut other) = (vec![0.0; inputs], vec![0.0; inputs]);
            for (output, values) in values.chunks_exact(inputs).enumerate() {
                coded.row(output, &mut one);
                fitted.row(output, &mut other);
                got.iter_mut().zip(one.iter().zip(&other)).for_each(|(got, (a, b))| *got = [*a, *b]);
                for (block, (values, got)) in values.chunks(32).zip(got.chunks(32)).enumerate() {
                    let CodedBlock { step, floor, .. } = rows.blocks[output * depth + block];
                    // f16 rounds by 2^-11. 256 steps become 128: a half of those is one of the file's.
                    let rounding = (floor.abs() + 255.0 * step.abs()) / 1024.0;
                    let allowed = rounding + if largest == 255 { 1.01 * step.abs() } else { 0.0 };
                    for (value, [coded, fitted]) in values.iter().zip(got) {
                        assert!((coded - value).abs() <= allowed, "{largest}: {coded} for {value}, {allowed}");
                        assert!((coded - fitted).abs() <= 2.0 * allowed, "{largest}: {coded} and {fitted}");
                    }
                }
            }
        }
    }

    #[test]
    fn parts_may_end_within_a_panel_and_be_of_several_kinds() {
        let rows = [CodedRows::new(5, 2, 15), CodedRows::new(20, 2, 255), CodedRows::new(8, 2, 31)];
        let parts: Vec<&dyn MatrixRows<Error = Infallible>> = rows.iter().map(|rows| rows as _).collect();
        let packed = Int8Matrix::read(StackedRows::new(&parts, 64)).unwrap();
        assert!((packed.outputs(), packed.is_in_nibbles()) == (33, false));
        let values: Vec<f32> = rows.iter().flat_map(CodedRows::all).collect();
        let mut row = vec![0.0; 64];
        for (output, values) in values.chunks_exact(64).enumerate() {
            packed.row(output, &mut row);
            for (got, value) in row.iter().zip(values) {
                assert!((got - value).abs() < 0.02, "row {output}: {got} for {value}");
            }
        }
    }
}
