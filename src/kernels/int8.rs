//! Quantised weights: 8-bit products with 32-bit sums.
//!
//! Each output's weights are affine over 32 inputs, `w = step * code + floor`, with codes from 0 to 127. Where the
//! weights of every block are on 16 steps already, as in files with 4 bits a weight, codes are 0 to 15, two to a byte.
//! With activations `a = step' * code'`, a block's product is `step' * (step * sum(code code') + floor * sum(code'))`: two
//! exact integer sums and three float operations, the same in every instruction set, so that results agree to the last
//! bit.

mod fit;
mod layout;
mod pack;
mod rows;
mod stored;
mod tile;
mod widen;
#[cfg(target_arch = "x86_64")]
mod x86;
#[cfg(target_arch = "x86_64")]
mod x86_pair;
#[cfg(target_arch = "x86_64")]
mod x86_row8;

pub(super) use layout::{BLOCK_INPUTS, ROW8};
pub(super) use rows::{QuantisedRows, QuantisedRowsMut};
pub use stored::StoredInt8;

use super::column_writer::ColumnWriter;
use super::huge_pages::filled;
use super::isa::Isa;
use super::layout::{Lane, Line, NO_SUM, NO_SUMS, PANEL, floats, floats_mut, tiles};
use super::matrix_rows::with_held;
use super::parallel::each_panel_range;
use super::transpose16::transpose16;
use half::f16;
use layout::{Int8Panel, Scales, WeightCodes};
use stored::{bytes_of, bytes_of_mut};
use tile::{ROW8S_MAX, code, row8_tile, tile};

/// A matrix `W` of `(outputs, inputs)` in panels of 16 outputs.
#[derive(Clone)]
pub struct Int8Matrix {
    codes: Vec<WeightCodes>,
    scales: Vec<Scales>,
    /// Two codes to a byte.
    nibbles: bool,
    /// Power of two by which all steps and floors are divided, so that they fit f16.
    unit: f32,
    outputs: usize,
    inputs: usize,
}

impl std::fmt::Debug for Int8Matrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bits = if self.nibbles { 4 } else { 8 };
        write!(f, "Int8Matrix({} x {} in {bits} bits)", self.outputs, self.inputs)
    }
}

impl Int8Matrix {
    /// Packs row-major matrices of `(outputs_i, inputs)`, one below the other.
    ///
    /// # Panics
    /// Where a matrix's length is not a multiple of `inputs`.
    pub fn new(matrices: &[&[f32]], inputs: usize) -> Self {
        with_held(matrices, inputs, Self::read)
    }

    /// What it is, its codes and its scales.
    pub(super) fn stored(&self) -> (StoredInt8, [&[u8]; 2]) {
        let Self { nibbles, unit, outputs, inputs, .. } = *self;
        (StoredInt8 { outputs, inputs, nibbles, unit }, [bytes_of(&self.codes), bytes_of(&self.scales)])
    }

    /// The matrix of which `fill` writes codes and scales.
    ///
    /// # Errors
    /// As `fill`.
    pub(super) fn from_stored<E>(
        stored: StoredInt8,
        fill: impl FnOnce([&mut [u8]; 2]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let StoredInt8 { outputs, inputs, nibbles, unit } = stored;
        let mut codes: Vec<WeightCodes> = filled(stored.blocks() * stored.lines(), Line([0; 64]));
        let mut scales = filled(stored.blocks(), Scales::default());
        fill([bytes_of_mut(&mut codes), bytes_of_mut(&mut scales)])?;
        Ok(Self { codes, scales, nibbles, unit, outputs, inputs })
    }

    /// Bytes of a matrix in nibbles or in bytes.
    pub(super) fn planned_bytes(outputs: usize, inputs: usize, nibbles: bool) -> usize {
        let lines = if nibbles { 4 } else { 8 };
        outputs.div_ceil(PANEL)
            * inputs.div_ceil(BLOCK_INPUTS)
            * (lines * size_of::<WeightCodes>() + size_of::<Scales>())
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
        std::mem::size_of_val(self.codes.as_slice()) + std::mem::size_of_val(self.scales.as_slice())
    }

    /// Whether two codes share a byte.
    #[cfg(test)]
    pub(super) fn is_in_nibbles(&self) -> bool {
        self.nibbles
    }

    /// Copies row `row` into `out`: the embedding of a token.
    ///
    /// # Panics
    /// Where `row` or the length of `out` is not the matrix's.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.outputs && out.len() == self.inputs, "row {row} of {self:?}");
        let (panel, output) = (self.panel(row / PANEL), row % PANEL);
        let lines = panel.codes.len() / panel.scales.len();
        for (block, out) in out.chunks_mut(BLOCK_INPUTS).enumerate() {
            let scales = &panel.scales[block];
            let [step, floor] = [scales.step, scales.floor].map(|bits| f16::from_bits(bits[output]).to_f32());
            for (input, out) in out.iter_mut().enumerate() {
                let code = code(&panel.codes[block * lines..][..lines], output, input);
                *out = (step * f32::from(code) + floor) * self.unit;
            }
        }
    }

    /// Widens panel `panel`, one lane an input.
    pub(super) fn widen_panel(&self, panel: usize, lanes: &mut [Lane]) {
        widen::panel(self.panel(panel), lanes);
    }

    /// `y = x W^T`: `x` is `(rows, inputs)`, `y` becomes `(rows, outputs)`, both row-major.
    ///
    /// # Panics
    /// Where the lengths do not fit.
    pub fn forward(&self, x: &[f32], y: &mut [f32]) {
        self.forward_with(Isa::detect(), x, y);
    }

    pub(super) fn forward_with(&self, isa: Isa, x: &[f32], y: &mut [f32]) {
        let rows = x.len() / self.inputs;
        assert!(x.len() == rows * self.inputs && y.len() == rows * self.outputs, "x and y of {self:?}");
        self.product(isa, &QuantisedRows::of(isa, x, self.inputs), y);
    }

    /// The product of quantised rows.
    pub(super) fn forward_codes(&self, x: &QuantisedRows, y: &mut [f32]) {
        self.product(Isa::detect(), x, y);
    }

    fn product(&self, isa: Isa, x: &QuantisedRows, y: &mut [f32]) {
        let depth = self.inputs.div_ceil(BLOCK_INPUTS);
        let (row8s, rows) = (x.row8s.len() / depth, x.rows.len() / depth);
        let row8_rows = row8s * ROW8;
        let whole = x.row8s.len() == row8s * depth && x.rows.len() == rows * depth;
        assert!(whole && y.len() == (row8_rows + rows) * self.outputs, "x and y of {self:?}");
        let y = ColumnWriter::new(y, self.outputs);
        let all = self.outputs.div_ceil(PANEL);
        let by_pairs = isa.has_panel_pairs() && rows > isa.int8_rows();
        let together = if by_pairs { 2 } else { 1 };
        each_panel_range(self.outputs, (row8_rows + rows) * self.inputs * self.outputs, together, |panels| {
            let put = |row: usize, panel: usize, sums: &Lane| y.write(row, panel * PANEL, &sums.0);
            // A tile's rows stay in the first-level cache for all panels.
            for row8s in tiles(row8s, ROW8S_MAX) {
                let (mut squares, mut transposed) = ([[NO_SUM; PANEL]; 2], [NO_SUM; PANEL]);
                let (a, rows) =
                    (&x.row8s[row8s.start * depth..row8s.end * depth], row8s.start * ROW8..row8s.end * ROW8);
                for panel in panels.clone() {
                    row8_tile(row8s.len(), a, self.panel(panel), &mut squares);
                    for (square, first) in squares.iter().zip(rows.clone().step_by(PANEL)) {
                        transpose16(isa, (floats(square), PANEL), (floats_mut(&mut transposed), PANEL));
                        (first..rows.end).zip(&transposed).for_each(|(row, sums)| put(row, panel, sums));
                    }
                }
            }
            #[cfg(target_arch = "x86_64")]
            let panels = if by_pairs {
                let pairs = panels.start..panels.start + panels.len() / 2 * 2;
                for first in pairs.clone().step_by(2) {
                    let pair = [self.panel(first), self.panel(first + 1)];
                    // What follows is another thread's, if not this one's: it is in the shared cache then.
                    let next = (first + 3 < all).then(|| [self.panel(first + 2), self.panel(first + 3)]);
                    // SAFETY: only this instruction set has pairs of panels.
                    unsafe { x86_pair::product(rows, &x.rows, (pair, next), &y, (row8_rows, first * PANEL)) }
                }
                pairs.end..panels.end
            } else {
                panels
            };
            // One row's product with a panel takes no longer than clearing the sums of many rows.
            let (mut one, mut several);
            let sums: &mut [Lane] = if rows > 1 {
                several = NO_SUMS;
                &mut several
            } else {
                one = [NO_SUM];
                &mut one
            };
            for panel in panels {
                for rows in tiles(rows, isa.int8_rows()) {
                    tile(isa, rows.len(), &x.rows[rows.start * depth..rows.end * depth], self.panel(panel), sums);
                    rows.zip(&*sums).for_each(|(row, sums)| put(row8_rows + row, panel, sums));
                }
            }
        });
    }

    fn panel(&self, panel: usize) -> Int8Panel<'_> {
        let blocks = self.inputs.div_ceil(BLOCK_INPUTS);
        let lines = blocks * if self.nibbles { 4 } else { 8 };
        Int8Panel {
            codes: &self.codes[panel * lines..][..lines],
            scales: &self.scales[panel * blocks..][..blocks],
            unit: self.unit,
        }
    }
}
