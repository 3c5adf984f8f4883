//! Weights on few steps, products in 8 bits, sums in 32.
//!
//! Each output's weights are affine over 32 inputs, `w = step * code + floor`, with codes from 0 to 127; or
//! from 0 to 15, two to a byte, where every block of the matrix lies on 16 steps already, as in files of 4
//! bits a weight. Over a block of activations `a = step' * code' + middle` a product is
//! `step * (step' * sum(code code') + middle * sum(code)) + floor * sum(a)`: one exact sum of integers and four
//! float operations, the same in every instruction set, so that results agree to the last bit.

use super::int8_rows::{BLOCK, Codes, ROW8, Row8, RowBlock};
use super::isa::Isa;
use super::pages::filled;
use super::transpose16::{floats, floats_mut, turn_square};
use super::{Columns, Lane, Line, NO_SUM, NO_SUMS, PANEL, each_piece, tiles};
use crate::kernels::ops::vectorised;
use half::f16;
use rayon::prelude::*;

/// Octets of rows that meet a panel together.
const OCTETS_MAX: usize = 4;

/// Codes of 16 outputs: four inputs of each in bytes, or eight in nibbles, the first four low.
pub(super) type WeightCodes = Line<[u8; 64]>;

/// Steps, floors and sums of codes of one block of 16 outputs; the first two are bits of f16.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(32))]
pub(super) struct Scales {
    pub(super) step: [u16; PANEL],
    pub(super) floor: [u16; PANEL],
    pub(super) sum: [u16; PANEL],
}

/// One panel: `blocks` scales, and 4 lines of nibbles or 8 of bytes for each.
#[derive(Clone, Copy, Debug)]
pub(super) struct Panel<'a> {
    pub(super) codes: &'a [WeightCodes],
    pub(super) scales: &'a [Scales],
    pub(super) unit: f32,
}

impl Panel<'_> {
    /// Lines of codes of a block: 4 of nibbles, 8 of bytes.
    fn lines(&self) -> usize {
        let lines = self.codes.len() / self.scales.len();
        assert!(matches!(lines, 4 | 8) && self.codes.len() == lines * self.scales.len(), "whole blocks of codes");
        lines
    }
}

/// A matrix `W` of `(outputs, inputs)` in panels of 16 outputs.
#[derive(Clone)]
pub struct Int8Matrix {
    codes: Vec<WeightCodes>,
    scales: Vec<Scales>,
    /// Two codes to a byte.
    nibbles: bool,
    /// Power of two that all steps and floors are multiples of: it brings them into the range of f16.
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

/// 32 weights of one output on the steps of a block.
struct Fit {
    step: f16,
    floor: f16,
    codes: [u8; BLOCK],
    /// Largest distance of a weight from its step, in steps.
    error: f32,
}

/// Added and taken away again, 1.5 * 2^23 leaves the nearest whole number.
const ROUND: f32 = 12_582_912.0;

/// Rounds `weights` to steps of `1 / inverse` above `floor`, from 0 to `levels`. Returns the largest distance from a
/// step, in steps.
#[inline(always)]
fn round_body(weights: &[f32], codes: &mut [u8], floor: f32, inverse: f32, levels: f32) -> f32 {
    let mut errors = [0.0f32; 8];
    for (codes, weights) in codes.chunks_mut(8).zip(weights.chunks(8)) {
        for ((error, code), weight) in errors.iter_mut().zip(codes).zip(weights) {
            let steps = (weight - floor) * inverse;
            let nearest = ((steps + ROUND) - ROUND).clamp(0.0, levels);
            *error = error.max((steps - nearest).abs());
            *code = nearest as i32 as u8;
        }
    }
    errors.into_iter().fold(0.0, f32::max)
}
vectorised!(round_to_steps, round_body, (weights: &[f32], codes: &mut [u8], floor: f32, inverse: f32, levels: f32) -> f32);

impl Fit {
    /// The weights on `levels` steps from the least to the largest of them.
    fn on(weights: &[f32], (low, high): (f32, f32), levels: u8) -> Self {
        let (step, floor) = (f16::from_f32((high - low) / f32::from(levels)), f16::from_f32(low));
        let mut fit = Self { step, floor, codes: [0; BLOCK], error: 0.0 };
        let (step, floor) = (step.to_f32(), floor.to_f32());
        let inverse = if step > 0.0 { 1.0 / step } else { 0.0 };
        fit.error = round_to_steps(weights, &mut fit.codes, floor, inverse, f32::from(levels));
        fit
    }

    /// The fit on at most 16 steps that loses nothing to speak of: an eighth of what 128 steps would lose.
    fn in_nibbles(weights: &[f32]) -> Option<Self> {
        let extremes = extremes(weights)?;
        (1..=15).rev().map(|levels| Self::on(weights, extremes, levels)).find(|fit| fit.error < 1.0 / 64.0)
    }

    /// The best fit on at most 128 steps. A few more or less make a grid exact that the weights lie on already.
    fn in_bytes(weights: &[f32]) -> Self {
        let Some(extremes) = extremes(weights) else {
            // What is no number must stay so.
            return Self { step: f16::ZERO, floor: f16::NAN, codes: [0; BLOCK], error: 0.0 };
        };
        let mut best = Self::on(weights, extremes, 127);
        for levels in (112..127).rev() {
            if best.error < 1.0 / 64.0 {
                break;
            }
            let fit = Self::on(weights, extremes, levels);
            // Errors are in steps, and steps differ in size.
            if fit.error * fit.step.to_f32() < best.error * best.step.to_f32() {
                best = fit;
            }
        }
        best
    }
}

/// The least and the largest of `weights`; none where one is no finite number.
fn extremes(weights: &[f32]) -> Option<(f32, f32)> {
    let least = weights.iter().copied().fold(f32::INFINITY, f32::min);
    let largest = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    weights.iter().all(|weight| weight.is_finite()).then_some((least, largest))
}

impl Int8Matrix {
    /// Packs row-major matrices of `(outputs_i, inputs)`, one below the other.
    ///
    /// # Panics
    /// Where a part's length is no multiple of `inputs`.
    pub fn new(parts: &[&[f32]], inputs: usize) -> Self {
        assert!(inputs > 0 && parts.iter().all(|part| part.len().is_multiple_of(inputs)), "whole rows only");
        let rows: Vec<&[f32]> = parts.iter().flat_map(|part| part.chunks_exact(inputs)).collect();
        let unit = unit(&rows);
        let scaled = |row: &[f32]| row.iter().map(|weight| weight / unit).collect::<Vec<_>>();
        let nibbles =
            rows.par_iter().all(|row| scaled(row).chunks(BLOCK).all(|block| Fit::in_nibbles(block).is_some()));
        let (panels, blocks) = (rows.len().div_ceil(PANEL), inputs.div_ceil(BLOCK));
        let lines = if nibbles { 4 } else { 8 };
        let mut codes = filled(panels * blocks * lines, Line([0; 64]));
        let mut scales = filled(panels * blocks, Scales::default());
        let each = codes.par_chunks_mut(blocks * lines).zip(scales.par_chunks_mut(blocks)).zip(rows.par_chunks(PANEL));
        each.for_each(|((codes, scales), rows)| {
            for (output, row) in rows.iter().enumerate() {
                for (block, weights) in scaled(row).chunks(BLOCK).enumerate() {
                    let fit = nibbles.then(|| Fit::in_nibbles(weights)).flatten();
                    let fit = fit.unwrap_or_else(|| Fit::in_bytes(weights));
                    let scales = &mut scales[block];
                    scales.step[output] = fit.step.to_bits();
                    scales.floor[output] = fit.floor.to_bits();
                    scales.sum[output] = fit.codes.iter().map(|&code| u16::from(code)).sum();
                    for (input, &code) in fit.codes.iter().enumerate() {
                        let (line, shift) = if nibbles { (input / 8, input / 4 % 2 * 4) } else { (input / 4, 0) };
                        codes[block * lines + line].0[output * 4 + input % 4] |= code << shift;
                    }
                }
            }
        });
        Self { codes, scales, nibbles, unit, outputs: rows.len(), inputs }
    }

    /// Bytes of a matrix in nibbles or in bytes.
    pub(super) fn planned_bytes(outputs: usize, inputs: usize, nibbles: bool) -> usize {
        let lines = if nibbles { 4 } else { 8 };
        outputs.div_ceil(PANEL) * inputs.div_ceil(BLOCK) * (lines * size_of::<WeightCodes>() + size_of::<Scales>())
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
    pub fn is_in_nibbles(&self) -> bool {
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
        for (block, out) in out.chunks_mut(BLOCK).enumerate() {
            let scales = &panel.scales[block];
            let [step, floor] = [scales.step, scales.floor].map(|bits| f16::from_bits(bits[output]).to_f32());
            for (input, out) in out.iter_mut().enumerate() {
                let code = code(&panel.codes[block * lines..][..lines], output, input);
                *out = (step * f32::from(code) + floor) * self.unit;
            }
        }
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
        self.product(isa, &Codes::of(isa, x, self.inputs), y);
    }

    /// The product of rows that are quantised already.
    pub(super) fn forward_codes(&self, x: &Codes, y: &mut [f32]) {
        self.product(Isa::detect(), x, y);
    }

    fn product(&self, isa: Isa, x: &Codes, y: &mut [f32]) {
        let depth = self.inputs.div_ceil(BLOCK);
        let (row8s, rows) = (x.row8s.len() / depth, x.rows.len() / depth);
        let in_octets = row8s * ROW8;
        let whole = x.row8s.len() == row8s * depth && x.rows.len() == rows * depth;
        assert!(whole && y.len() == (in_octets + rows) * self.outputs, "x and y of {self:?}");
        let y = Columns::new(y, self.outputs);
        each_piece(self.outputs, (in_octets + rows) * self.inputs * self.outputs, |panels| {
            let put = |row: usize, panel: usize, sums: &Lane| y.write(row, panel * PANEL, &sums.0);
            // A tile's rows stay in the first cache while panels pass by.
            for row8s in tiles(row8s, OCTETS_MAX) {
                let (mut squares, mut turned) = ([[NO_SUM; PANEL]; 2], [NO_SUM; PANEL]);
                let (a, rows) =
                    (&x.row8s[row8s.start * depth..row8s.end * depth], row8s.start * ROW8..row8s.end * ROW8);
                for panel in panels.clone() {
                    octet_tile(row8s.len(), a, self.panel(panel), &mut squares);
                    for (square, first) in squares.iter().zip(rows.clone().step_by(PANEL)) {
                        turn_square(isa, (floats(square), PANEL), (floats_mut(&mut turned), PANEL));
                        (first..rows.end).zip(&turned).for_each(|(row, sums)| put(row, panel, sums));
                    }
                }
            }
            // One row is done with a panel in no more time than it takes to clear the sums of many.
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
                    rows.zip(&*sums).for_each(|(row, sums)| put(in_octets + row, panel, sums));
                }
            }
        });
    }

    fn panel(&self, panel: usize) -> Panel<'_> {
        let blocks = self.inputs.div_ceil(BLOCK);
        let lines = blocks * if self.nibbles { 4 } else { 8 };
        Panel {
            codes: &self.codes[panel * lines..][..lines],
            scales: &self.scales[panel * blocks..][..blocks],
            unit: self.unit,
        }
    }
}

/// A power of two near 2^-8 of the largest weight: steps and floors then lie well inside f16.
fn unit(rows: &[&[f32]]) -> f32 {
    let most = |row: &&[f32]| row.iter().fold(0.0f32, |most, weight| most.max(weight.abs()));
    let most = rows.par_iter().map(most).reduce(|| 0.0, f32::max);
    if most.is_normal() { (most.log2().floor() - 8.0).max(-126.0).exp2() } else { 1.0 }
}

/// The code of one weight in the lines of its block.
fn code(lines: &[WeightCodes], output: usize, input: usize) -> u8 {
    match lines.len() {
        4 => lines[input / 8].0[output * 4 + input % 4] >> (input / 4 % 2 * 4) & 15,
        _ => lines[input / 4].0[output * 4 + input % 4],
    }
}

/// `count` octets, each as many blocks as the panel, times that panel: two octets side by side are the columns of a
/// square of outputs.
fn octet_tile(count: usize, a: &[Row8], panel: Panel<'_>, squares: &mut [[Lane; PANEL]; 2]) {
    let (depth, lines) = (panel.scales.len(), panel.lines());
    assert!((1..=OCTETS_MAX).contains(&count) && a.len() == count * depth, "a tile of {count} octets");
    #[cfg(target_arch = "x86_64")]
    {
        use super::x86_row8::tile_avx2;
        macro_rules! by_count {
            ($($c:literal)+) => {
                match (count, lines) {
                    $(
                        // SAFETY: rows come in octets where the processor has AVX2, FMA and F16C; `a` is `count` octets of as
                        // many blocks as the panel, and the panel has 4 lines of nibbles a block, as just checked.
                        ($c, 4) => unsafe { tile_avx2::<$c, true>(a, panel, squares) },
                        // SAFETY: as above, with 8 lines of bytes a block.
                        ($c, _) => unsafe { tile_avx2::<$c, false>(a, panel, squares) },
                    )+
                    _ => unreachable!("the count was just checked"),
                }
            };
        }
        by_count!(1 2 3 4);
    }
    #[cfg(not(target_arch = "x86_64"))]
    unreachable!("{lines} lines of octets, which this processor does not read: {squares:?}");
}

/// `height` rows, each as many blocks as the panel, times that panel.
fn tile(isa: Isa, height: usize, a: &[RowBlock], panel: Panel<'_>, sums: &mut [Lane]) {
    let depth = panel.scales.len();
    assert!((1..=isa.int8_rows()).contains(&height) && a.len() == height * depth, "a tile of {height} rows");
    let lines = panel.lines();
    #[cfg(target_arch = "x86_64")]
    {
        use super::x86_int8::{tile_avx2, tile_vnni};
        macro_rules! by_height {
            ($tile:ident: $($h:literal)+) => {
                match (height, lines) {
                    $(
                        // SAFETY: the processor has the instructions; `a` is `height` rows of as many blocks as
                        // the panel, and the panel has 4 lines of nibbles a block, as just checked.
                        ($h, 4) => unsafe { $tile::<$h, true>(a, panel, sums) },
                        // SAFETY: as above, with 8 lines of bytes a block.
                        ($h, _) => unsafe { $tile::<$h, false>(a, panel, sums) },
                    )+
                    _ => unreachable!("the height was just checked"),
                }
            };
        }
        if isa == Isa::Vnni {
            by_height!(tile_vnni: 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
            return;
        }
        if isa != Isa::Portable {
            by_height!(tile_avx2: 1 2 3 4 5 6);
            return;
        }
    }
    portable_tile(height, a, panel, sums);
}

/// The same product without intrinsics, fused like the others.
fn portable_tile(height: usize, a: &[RowBlock], panel: Panel<'_>, sums: &mut [Lane]) {
    let depth = panel.scales.len();
    let lines = panel.codes.len() / depth;
    for (row, sums) in sums.iter_mut().enumerate().take(height) {
        let sums = &mut sums.0;
        sums.fill(0.0);
        for (block, (a, scales)) in a[row * depth..][..depth].iter().zip(panel.scales).enumerate() {
            let codes = &panel.codes[block * lines..][..lines];
            for (output, sum) in sums.iter_mut().enumerate() {
                let product = |(input, &a): (usize, &i8)| i32::from(code(codes, output, input)) * i32::from(a);
                let integer: i32 = a.codes.iter().enumerate().map(product).sum();
                let [step, floor] = [scales.step, scales.floor].map(|bits| f16::from_bits(bits[output]).to_f32());
                let shifted = (integer as f32).mul_add(a.step, a.middle * f32::from(scales.sum[output]));
                *sum = floor.mul_add(a.total, shifted.mul_add(step, *sum));
            }
        }
        for sum in sums.iter_mut() {
            *sum *= panel.unit;
        }
    }
}
