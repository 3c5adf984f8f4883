//! Weights in f32: what the learner differentiates through, forward and backward over the same panels.

use super::huge_pages::filled;
use super::layout::{Lane, Line, PANEL, floats, floats_mut};
use super::operands::RhsPanels;
use std::ops::Range;

/// A matrix `W` of `(outputs, inputs)` in panels of 16 outputs.
#[derive(Clone)]
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
        assert!(inputs > 0, "whole rows only");
        let mut packed = Self::zeros(matrices.iter().map(|matrix| matrix.len() / inputs).sum(), inputs);
        packed.refill(matrices);
        packed
    }

    /// A matrix of zeros.
    pub(crate) fn zeros(outputs: usize, inputs: usize) -> Self {
        let lanes = filled(usize::div_ceil(outputs, PANEL) * inputs, Line([0.0; PANEL]));
        Self { lanes, outputs, inputs }
    }

    /// Takes the values of matrices that together have the same size, in the memory that is there.
    ///
    /// # Panics
    /// Where they have not.
    pub(crate) fn refill(&mut self, matrices: &[&[f32]]) {
        let (inputs, floats) = (self.inputs, matrices.iter().map(|matrix| matrix.len()).sum::<usize>());
        let whole = matrices.iter().all(|matrix| matrix.len().is_multiple_of(inputs));
        assert!(whole && floats == self.outputs * inputs, "whole rows only, and as many as {self:?} has");
        let rows = matrices.iter().flat_map(|matrix| matrix.chunks_exact(inputs));
        for (row, values) in rows.enumerate() {
            let panel = &mut self.lanes[row / PANEL * inputs..][..inputs];
            for (lane, &value) in panel.iter_mut().zip(values) {
                lane.0[row % PANEL] = value;
            }
        }
    }

    /// Takes `values`, rows of `width` of them, times `scale` at row `first` and column `left` and behind; the rest stays.
    ///
    /// # Panics
    /// Where they do not lie in the matrix.
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

    /// Inputs `inputs` of `panels`.
    pub(super) fn panels(&self, panels: &Range<usize>, inputs: &Range<usize>) -> RhsPanels<'_> {
        let lanes = self.lanes_from(panels.start, inputs.start);
        RhsPanels { lanes, depth: inputs.len(), stride: self.inputs, count: panels.len() }
    }

    /// What lies from input `input` of `panel` on: 16 outputs are as many lanes as the matrix has inputs.
    pub(super) fn lanes_from(&self, panel: usize, input: usize) -> &[Lane] {
        &self.lanes[panel * self.inputs + input..]
    }

    /// The values as they lie: in panels of 16 outputs, input by input.
    pub(crate) fn values(&self) -> &[f32] {
        floats(&self.lanes)
    }

    /// The values as they lie, to be changed. Those past the last output must stay zero.
    pub(crate) fn values_mut(&mut self) -> &mut [f32] {
        floats_mut(&mut self.lanes)
    }
}

/// Values that a packed matrix of `(outputs, inputs)` takes, those past the last output included.
pub(crate) fn packed_len(outputs: usize, inputs: usize) -> usize {
    outputs.next_multiple_of(PANEL) * inputs
}

/// Where row `row` begins; its inputs are a panel apart.
fn row_start(row: usize, inputs: usize) -> usize {
    row / PANEL * inputs * PANEL + row % PANEL
}

/// `rows` of a packed matrix in row-major order, `(rows, inputs)`.
pub(crate) fn unpack_rows(packed: &[f32], inputs: usize, rows: Range<usize>) -> Vec<f32> {
    let row = |row| packed[row_start(row, inputs)..].iter().step_by(PANEL).take(inputs).copied();
    rows.flat_map(row).collect()
}

/// Writes row-major `values`, `(rows, inputs)`, to a packed matrix from row `first` on.
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
