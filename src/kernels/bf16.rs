//! Weights in bf16, widened in registers, with f32 sums: half the memory and the memory traffic of f32.
//!
//! A value is rounded to the nearest bf16 once, at load: 8 bits of mantissa. A product equals the f32 kernel's over the
//! rounded weights, bit for bit.

#[cfg(target_arch = "x86_64")]
mod x86;

use super::column_writer::ColumnWriter;
use super::huge_pages::filled;
use super::isa::Isa;
use super::layout::{Bf16Pair, Lane, Line, NO_SUMS, PANEL, Sums, tiles};
use super::matrix_rows::{StackedRows, with_held};
use super::ops::vectorised;
use super::parallel::each_panel;
use rayon::prelude::*;

/// A matrix `W` of `(outputs, inputs)` in panels of 16 outputs.
#[derive(Clone)]
pub struct Bf16Matrix {
    /// `panels x inputs / 2` pairs; an odd last input is paired with 0.
    pairs: Vec<Bf16Pair>,
    outputs: usize,
    inputs: usize,
}

impl std::fmt::Debug for Bf16Matrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bf16Matrix({} x {})", self.outputs, self.inputs)
    }
}

/// The bits of the nearest bf16, ties to even. NaN stays NaN.
fn round(value: f32) -> u32 {
    u32::from(half::bf16::from_f32(value).to_bits())
}

/// The f32 of a bf16's bits.
fn widen(bits: u32) -> f32 {
    f32::from_bits(bits << 16)
}

impl Bf16Matrix {
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
        let (inputs, depth) = (rows.inputs, rows.inputs.div_ceil(2));
        let mut pairs = filled(rows.panels() * depth, Line([0; PANEL]));
        pairs.par_chunks_mut(depth).enumerate().try_for_each_init(
            || vec![0.0; PANEL * inputs],
            |values, (panel, pairs)| {
                let count = rows.panel(panel, values)?;
                for (row, values) in values[..count * inputs].chunks_exact(inputs).enumerate() {
                    for (pair, values) in pairs.iter_mut().zip(values.chunks(2)) {
                        let odd = values.get(1).map_or(0, |&odd| round(odd));
                        pair.0[row] = round(values[0]) | odd << 16;
                    }
                }
                Ok(())
            },
        )?;
        Ok(Self { pairs, outputs: rows.outputs(), inputs })
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
        std::mem::size_of_val(self.pairs.as_slice())
    }

    /// Copies row `row` into `out`: the embedding of a token.
    ///
    /// # Panics
    /// Where `row` or the length of `out` is not the matrix's.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.outputs && out.len() == self.inputs, "row {row} of {self:?}");
        let depth = self.inputs.div_ceil(2);
        let panel = &self.pairs[row / PANEL * depth..][..depth];
        for (out, pair) in out.chunks_mut(2).zip(panel) {
            let word = pair.0[row % PANEL];
            for (out, bits) in out.iter_mut().zip([word & 0xffff, word >> 16]) {
                *out = widen(bits);
            }
        }
    }

    /// Widens panel `panel`, one lane an input.
    pub(super) fn widen_panel(&self, panel: usize, lanes: &mut [Lane]) {
        let depth = self.inputs.div_ceil(2);
        widen_pairs(&self.pairs[panel * depth..][..depth], lanes);
    }

    /// `y = x W^T`: `x` is `(rows, inputs)`, `y` becomes `(rows, outputs)`, both row-major.
    ///
    /// # Panics
    /// Where the lengths do not fit.
    pub fn forward(&self, x: &[f32], y: &mut [f32]) {
        self.forward_with(Isa::detect(), x, y);
    }

    pub(super) fn forward_with(&self, isa: Isa, x: &[f32], y: &mut [f32]) {
        let (inputs, depth) = (self.inputs, self.inputs.div_ceil(2));
        let rows = x.len() / inputs;
        assert!(x.len() == rows * inputs && y.len() == rows * self.outputs, "x and y of {self:?}");
        let y = ColumnWriter::new(y, self.outputs);
        each_panel(self.outputs, x.len() * self.outputs, |panel| {
            let pairs = &self.pairs[panel * depth..][..depth];
            let mut sums = NO_SUMS;
            for rows in tiles(rows, isa.bf16_rows()) {
                tile(isa, rows.len(), &x[rows.start * inputs..rows.end * inputs], inputs, pairs, &mut sums);
                for (row, sums) in rows.zip(&sums) {
                    y.write(row, panel * PANEL, &sums.0);
                }
            }
        });
    }
}

#[inline(always)]
fn widen_each(pairs: &[Bf16Pair], lanes: &mut [Lane]) {
    for (pair, lanes) in pairs.iter().zip(lanes.chunks_mut(2)) {
        let halves = [pair.0.map(|word| word << 16), pair.0.map(|word| word & 0xffff_0000)];
        lanes.iter_mut().zip(halves).for_each(|(lane, bits)| lane.0 = bits.map(f32::from_bits));
    }
}
vectorised!(widen_pairs, widen_each, (pairs: &[Bf16Pair], lanes: &mut [Lane]));

/// `height` rows of `depth` inputs times one panel.
fn tile(isa: Isa, height: usize, a: &[f32], depth: usize, pairs: &[Bf16Pair], sums: &mut Sums) {
    assert!((1..=isa.bf16_rows()).contains(&height) && a.len() == height * depth, "a tile of {height} rows");
    assert!(pairs.len() == depth.div_ceil(2), "the panel is as deep as the rows");
    #[cfg(target_arch = "x86_64")]
    {
        use x86::{tile_bf16_avx2, tile_bf16_avx512};
        macro_rules! by_height {
            ($tile:ident: $($h:literal)+) => {
                match height {
                    // SAFETY: the processor has the instructions; `a` has `height` rows of `depth` elements, and the
                    // panel a pair for every two of them.
                    $($h => unsafe { $tile::<$h>(a, depth, pairs, sums) },)+
                    _ => unreachable!("the height was just checked"),
                }
            };
        }
        if isa.is_wide() {
            by_height!(tile_bf16_avx512: 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
            return;
        }
        if isa == Isa::Avx2 {
            by_height!(tile_bf16_avx2: 1 2 3 4 5);
            return;
        }
    }
    for (row, sums) in sums.iter_mut().enumerate().take(height) {
        sums.0.fill(0.0);
        for (a, pair) in a[row * depth..][..depth].chunks(2).zip(pairs) {
            for (sum, word) in sums.0.iter_mut().zip(pair.0) {
                for (a, bits) in a.iter().zip([word & 0xffff, word >> 16]) {
                    *sum += a * widen(bits);
                }
            }
        }
    }
}
