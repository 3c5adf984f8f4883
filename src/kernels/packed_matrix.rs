//! A weight in f32, packed in panels of 16 outputs: the layout, and how rows get in and out of it.
//!
//! Forward and backward products read the same panels. An optimizer does not care about the order of values, so
//! gradients and moments have the weights' layout, and only files need rows. Knows no product.

use super::huge_pages::filled;
use super::isa::Isa;
use super::layout::{Lane, Line, PANEL, floats, floats_mut};
use super::matrix_rows::{StackedRows, with_held};
use super::operands::RhsPanels;
use super::transpose16::rows_to_panels;
use rayon::prelude::*;
use std::ops::Range;

/// A matrix `W` of `(outputs, inputs)` in panels of 16 outputs.
#[derive(Clone, Default)]
pub struct PackedMatrix {
    /// `panels x inputs` lanes; outputs past the last are zero.
    lanes: Vec<Lane>,
    outputs: usize,
    inputs: usize,
}

impl std::fmt::Debug for PackedMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackedMatrix({} x {})", self.outputs, self.inputs)
    }
}

impl PackedMatrix {
    /// Packs row-major matrices of `(outputs_i, inputs)`, one below the other.
    ///
    /// # Panics
    /// Where a matrix's length is not a multiple of `inputs`.
    pub fn new(matrices: &[&[f32]], inputs: usize) -> Self {
        with_held(matrices, inputs, Self::read)
    }

    /// Packs rows as they are read, on all threads.
    ///
    /// # Errors
    /// If rows cannot be read.
    pub(super) fn read<E: Send>(rows: StackedRows<'_, E>) -> Result<Self, E> {
        let (isa, inputs) = (Isa::detect(), rows.inputs);
        let mut packed = Self::zeros(rows.outputs(), inputs);
        let panels = packed.lanes.par_chunks_mut(inputs).enumerate();
        panels.try_for_each_init(
            || vec![0.0; PANEL * inputs],
            |values, (panel, lanes)| {
                let count = rows.panel(panel, values)?;
                rows_to_panels(isa, (&values[..count * inputs], inputs), count, std::iter::once(lanes));
                Ok(())
            },
        )?;
        Ok(packed)
    }

    /// A matrix of zeros.
    pub(crate) fn zeros(outputs: usize, inputs: usize) -> Self {
        let lanes = filled(usize::div_ceil(outputs, PANEL) * inputs, Line([0.0; PANEL]));
        Self { lanes, outputs, inputs }
    }

    /// Resizes to `(outputs, inputs)` with unspecified values; memory is only added.
    pub(super) fn reshape(&mut self, outputs: usize, inputs: usize) {
        let lanes = usize::div_ceil(outputs, PANEL) * inputs;
        if self.lanes.len() < lanes {
            self.lanes = vec![];
            self.lanes = filled(lanes, Line([0.0; PANEL]));
        }
        (self.outputs, self.inputs) = (outputs, inputs);
    }

    /// Lanes in use: a matrix that was reshaped may hold more.
    fn len(&self) -> usize {
        self.outputs.div_ceil(PANEL) * self.inputs
    }

    /// Floats that it has memory for.
    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.lanes.len() * PANEL
    }

    /// Its panels, one lane an input.
    pub(super) fn panels_mut(&mut self) -> impl Iterator<Item = &mut [Lane]> {
        let (used, inputs) = (self.len(), self.inputs.max(1));
        self.lanes[..used].chunks_exact_mut(inputs)
    }

    /// Replaces the values by those of `matrices`, one below the other, without allocating.
    ///
    /// # Panics
    /// Where they are not of the same size together.
    pub(crate) fn refill(&mut self, matrices: &[&[f32]]) {
        let (inputs, floats) = (self.inputs, matrices.iter().map(|matrix| matrix.len()).sum::<usize>());
        let whole = matrices.iter().all(|matrix| matrix.len().is_multiple_of(inputs));
        assert!(whole && floats == self.outputs * inputs, "as many whole rows as {self:?} has");
        let rows = matrices.iter().flat_map(|matrix| matrix.chunks_exact(inputs));
        for (row, values) in rows.enumerate() {
            let panel = &mut self.lanes[row / PANEL * inputs..][..inputs];
            for (lane, &value) in panel.iter_mut().zip(values) {
                lane.0[row % PANEL] = value;
            }
        }
    }

    /// Replaces the block at row `first` and column `left` by `scale * values`, rows of `width`; the rest stays.
    ///
    /// # Panics
    /// Where the block is not within the matrix.
    pub(crate) fn refill_block(&mut self, (first, left): (usize, usize), values: &[f32], width: usize, scale: f32) {
        let fits = left + width <= self.inputs && first + values.len() / width <= self.outputs;
        assert!(fits && values.len().is_multiple_of(width), "{} values at {first}, {left} of {self:?}", values.len());
        for (row, values) in (first..).zip(values.chunks_exact(width)) {
            let lanes = &mut self.lanes[row / PANEL * self.inputs + left..][..width];
            lanes.iter_mut().zip(values).for_each(|(lane, value)| lane.0[row % PANEL] = scale * value);
        }
    }

    /// Rows of the matrix.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Columns of the matrix.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Bytes it holds.
    pub fn bytes(&self) -> usize {
        std::mem::size_of_val(self.lanes.as_slice())
    }

    /// Copies row `row` into `out`: the embedding of a token.
    ///
    /// # Panics
    /// Where `row` or the length of `out` is not the matrix's.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.outputs && out.len() == self.inputs, "row {row} of {self:?}");
        let panel = &self.lanes[row / PANEL * self.inputs..][..self.inputs];
        for (out, lane) in out.iter_mut().zip(panel) {
            *out = lane.0[row % PANEL];
        }
    }

    /// Panel `panel` of `W`: 16 outputs, one lane an input.
    pub(super) fn panel(&self, panel: usize) -> &[Lane] {
        &self.lanes[panel * self.inputs..][..self.inputs]
    }

    /// The inputs `inputs` of `panels`.
    pub(super) fn panels(&self, panels: &Range<usize>, inputs: &Range<usize>) -> RhsPanels<'_> {
        let lanes = self.lanes_from(panels.start, inputs.start);
        RhsPanels { lanes, depth: inputs.len(), stride: self.inputs, count: panels.len() }
    }

    /// The lanes from input `input` of `panel` on; a panel has one lane for each input of the matrix.
    pub(super) fn lanes_from(&self, panel: usize, input: usize) -> &[Lane] {
        &self.lanes[panel * self.inputs + input..]
    }

    /// The values in their layout: panels of 16 outputs, input by input.
    pub(crate) fn values(&self) -> &[f32] {
        floats(&self.lanes[..self.len()])
    }

    /// The values in their layout, mutable. Those past the last output must stay zero.
    pub(crate) fn values_mut(&mut self) -> &mut [f32] {
        let used = self.len();
        floats_mut(&mut self.lanes[..used])
    }
}

/// Floats of a packed matrix of `(outputs, inputs)`, padding included.
pub(crate) fn packed_len(outputs: usize, inputs: usize) -> usize {
    outputs.next_multiple_of(PANEL) * inputs
}

/// The index of row `row`'s first value; its inputs are 16 floats apart.
fn row_start(row: usize, inputs: usize) -> usize {
    row / PANEL * inputs * PANEL + row % PANEL
}

/// The rows `rows` of a packed matrix, `(rows, inputs)` row-major.
pub(crate) fn unpack_rows(packed: &[f32], inputs: usize, rows: Range<usize>) -> Vec<f32> {
    let row = |row| packed[row_start(row, inputs)..].iter().step_by(PANEL).take(inputs).copied();
    rows.flat_map(row).collect()
}

/// Writes row-major `values`, `(rows, inputs)`, to the rows of a packed matrix from `first` on.
pub(crate) fn pack_rows(values: &[f32], inputs: usize, first: usize, packed: &mut [f32]) {
    for (row, values) in values.chunks_exact(inputs).enumerate() {
        let to = packed[row_start(first + row, inputs)..].iter_mut().step_by(PANEL);
        to.zip(values).for_each(|(to, value)| *to = *value);
    }
}

/// `packed[row] += scale * values`.
pub(crate) fn add_row(values: &[f32], scale: f32, row: usize, packed: &mut [f32]) {
    let to = packed[row_start(row, values.len())..].iter_mut().step_by(PANEL);
    to.zip(values).for_each(|(to, value)| *to += scale * value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_from_panels_wherever_they_lie() {
        for (outputs, inputs) in [(1, 1), (16, 3), (37, 5)] {
            let rows = (0..outputs * inputs).map(|i| (i as f32 * 0.3).sin()).collect::<Vec<f32>>();
            let mut matrix = PackedMatrix::new(&[&rows], inputs);
            assert_eq!(matrix.values().len(), packed_len(outputs, inputs));
            assert_eq!(unpack_rows(matrix.values(), inputs, 0..outputs), rows);
            let mut packed = vec![0.0; packed_len(outputs, inputs)];
            let half = outputs / 2;
            pack_rows(&rows[half * inputs..], inputs, half, &mut packed);
            pack_rows(&rows[..half * inputs], inputs, 0, &mut packed);
            assert_eq!(packed, matrix.values());
            add_row(&vec![2.0; inputs], 0.5, outputs - 1, matrix.values_mut());
            let changed: Vec<f32> = rows[(outputs - 1) * inputs..].iter().map(|x| x + 1.0).collect();
            assert_eq!(unpack_rows(matrix.values(), inputs, outputs - 1..outputs), changed);
        }
    }
}
