//! Weights in f32: what the learner differentiates through, forward and backward over the same panels.

use super::isa::Isa;
use super::pages::filled;
use super::strided::Strided;
use super::thread_pool::Overlap;
use super::tile::{Begun, Panels, Tile, tile};
use super::{Columns, Lane, Line, NO_SUMS, PANEL, each_panel, gemm_lora, tiles};
use std::ops::Range;

/// Rows from which threads share out the rows instead of the outputs.
const SWEEP_MIN: usize = 96;

/// A matrix `W` of `(outputs, inputs)` in panels of 16 outputs.
#[derive(Clone)]
pub struct PackedMatrix {
    /// `panels x inputs` lanes; outputs past the last are zero.
    pub(super) lanes: Vec<Lane>,
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
    /// Where a part's length is no multiple of `inputs`.
    pub fn new(parts: &[&[f32]], inputs: usize) -> Self {
        assert!(inputs > 0, "whole rows only");
        let mut packed = Self::zeros(parts.iter().map(|part| part.len() / inputs).sum(), inputs);
        packed.refill(parts);
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
    pub(crate) fn refill(&mut self, parts: &[&[f32]]) {
        let (inputs, floats) = (self.inputs, parts.iter().map(|part| part.len()).sum::<usize>());
        let whole = parts.iter().all(|part| part.len().is_multiple_of(inputs));
        assert!(whole && floats == self.outputs * inputs, "whole rows only, and as many as {self:?} has");
        let rows = parts.iter().flat_map(|part| part.chunks_exact(inputs));
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

    /// `y = x W^T`: `x` is `(rows, inputs)`, `y` becomes `(rows, outputs)`, both row-major.
    ///
    /// # Panics
    /// Where the lengths do not fit.
    pub fn forward(&self, x: &[f32], y: &mut [f32]) {
        let rows = x.len() / self.inputs;
        if rows >= SWEEP_MIN {
            return gemm_lora::forward(self, None, x, &mut [], y);
        }
        assert!(x.len() == rows * self.inputs && y.len() == rows * self.outputs, "x and y of {self:?}");
        let (y, isa, x) = (Columns::new(y, self.outputs), Isa::detect(), Strided::rows(x, self.inputs));
        each_panel(self.outputs, rows * self.inputs * self.outputs, |panel| {
            let put = &mut |row, sums: &_| y.write(row, panel * PANEL, sums);
            product(isa, (x, Tile::Strided), rows, self.panel(panel), put);
        });
    }

    /// `dx = dy W`: `dy` is `(rows, outputs)`, `dx` becomes `(rows, inputs)`, both row-major.
    ///
    /// # Panics
    /// Where the lengths do not fit.
    pub fn backward(&self, dy: &[f32], dx: &mut [f32]) {
        gemm_lora::backward(self, None, dy, [&mut [], dx], Overlap::NONE);
    }

    /// Panel `panel` of `W`: 16 outputs, one lane an input.
    pub(super) fn panel(&self, panel: usize) -> &[Lane] {
        &self.lanes[panel * self.inputs..][..self.inputs]
    }

    /// Inputs `inputs` of `panels`.
    pub(super) fn panels(&self, panels: &Range<usize>, inputs: &Range<usize>) -> Panels<'_> {
        let lanes = self.lanes_from(panels.start, inputs.start);
        Panels { lanes, depth: inputs.len(), apart: self.inputs, count: panels.len() }
    }

    /// What lies from input `input` of `panel` on: 16 outputs are as many lanes as the matrix has inputs.
    pub(super) fn lanes_from(&self, panel: usize, input: usize) -> &[Lane] {
        &self.lanes[panel * self.inputs + input..]
    }
}

/// The first `rows` rows of `a`, read as `read` says, times one panel as deep, handed on row by row.
pub(super) fn product<'a>(
    isa: Isa,
    (a, read): (Strided<'a>, fn(Strided<'a>) -> Tile<'a>),
    rows: usize,
    lanes: &[Lane],
    put: &mut impl FnMut(usize, &[f32; PANEL]),
) {
    let mut sums = NO_SUMS;
    for rows in tiles(rows, isa.rows_alone()) {
        tile(isa, rows.len(), read(a.below(rows.start)), Panels::one(lanes), (&mut sums, 0), Begun::No);
        for (row, sums) in rows.zip(&sums) {
            put(row, &sums.0);
        }
    }
}
