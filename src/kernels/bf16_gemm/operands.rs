//! Operands in pairs of bf16 along the depth of a product.

use super::x86;
use crate::kernels::layout::{Bf16Pair, Line, PANEL, padded_stride};
use crate::kernels::packed_matrix::PackedMatrix;
use crate::kernels::thread_pool;
use std::ops::Range;

/// Pairs that a thread packs at least.
const PIECE: usize = 1 << 14;

/// Rows of activations, row-major.
#[derive(Default)]
pub(super) struct PairRows {
    pairs: Vec<u32>,
    rows: usize,
    /// Pairs of a row, and from one row to the next.
    depth: usize,
    stride: usize,
}

impl PairRows {
    /// Packs the first `width` floats of `rows` rows that are `apart` floats apart; an odd last one is paired with 0.
    pub(super) fn pack(&mut self, values: &[f32], apart: usize, rows: usize, width: usize) {
        (self.rows, self.depth) = (rows, width.div_ceil(2));
        self.stride = padded_stride(self.depth);
        let (stride, depth) = (self.stride, self.depth);
        if self.pairs.len() < rows * stride {
            self.pairs.resize(rows * stride, 0);
        }
        let together = (PIECE / stride.max(1)).max(1);
        let mut pieces: Vec<_> = self.pairs[..rows * stride].chunks_mut((together * stride).max(1)).collect();
        thread_pool::each_mut(&mut pieces, |piece, pairs| {
            for (row, pairs) in pairs.chunks_exact_mut(stride).enumerate() {
                let row = &values[(piece * together + row) * apart..][..width];
                x86::round_row(row, &mut pairs[..depth]);
            }
        });
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Pairs of a row.
    pub(super) fn depth(&self) -> usize {
        self.depth
    }

    /// The pairs `depth` of the rows from `row` on.
    pub(super) fn from(&self, row: usize, depth: &Range<usize>) -> x86::TileRows<'_> {
        x86::TileRows { pairs: &self.pairs[row * self.stride + depth.start..], stride: self.stride, depth: depth.len() }
    }
}

/// The other operand in panels of 16 outputs, one line a pair.
#[derive(Default)]
pub(super) struct PairPanels {
    lines: Vec<Bf16Pair>,
    outputs: usize,
    /// Pairs of an output.
    depth: usize,
}

impl PairPanels {
    fn shape(&mut self, outputs: usize, depth: usize) {
        (self.outputs, self.depth) = (outputs, depth.div_ceil(2));
        let lines = self.panels() * self.depth;
        if self.lines.len() < lines {
            self.lines.resize(lines, Line([0; PANEL]));
        }
    }

    /// Packs `W`: outputs are its outputs, the depth is its inputs.
    pub(super) fn pack(&mut self, w: &PackedMatrix) {
        self.shape(w.outputs(), w.inputs());
        self.each_panel(|panel, lines| x86::pair_inputs(w.panel(panel), lines));
    }

    /// Packs `W^T`: outputs are its inputs, the depth is its outputs.
    pub(super) fn pack_transposed(&mut self, w: &PackedMatrix) {
        // Outputs past the last are 0, so their pairs add nothing.
        self.shape(w.inputs(), w.outputs().next_multiple_of(2 * PANEL));
        let panels = w.outputs().div_ceil(PANEL);
        self.each_panel(|panel, lines| {
            let inputs = panel * PANEL..w.inputs().min((panel + 1) * PANEL);
            // Two panels of `W` are 16 pairs of the depth.
            for (lines, first) in lines.as_chunks_mut::<PANEL>().0.iter_mut().zip((0..panels).step_by(2)) {
                let second = (first + 1 < panels).then(|| &w.panel(first + 1)[inputs.clone()]);
                x86::pair_outputs(&w.panel(first)[inputs.clone()], second, lines);
            }
        });
    }

    fn each_panel(&mut self, pack: impl Fn(usize, &mut [Bf16Pair]) + Sync) {
        let (panels, depth) = (self.panels(), self.depth);
        let mut pieces: Vec<_> = self.lines[..panels * depth].chunks_exact_mut(depth.max(1)).collect();
        thread_pool::each_mut(&mut pieces, |panel, lines| pack(panel, lines));
    }

    pub(super) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Pairs of an output.
    pub(super) fn depth(&self) -> usize {
        self.depth
    }

    pub(super) fn panels(&self) -> usize {
        self.outputs.div_ceil(PANEL)
    }

    /// The pairs `depth` of `panels`.
    pub(super) fn from(&self, panels: &Range<usize>, depth: &Range<usize>) -> x86::TilePanels<'_> {
        let lines = &self.lines[panels.start * self.depth + depth.start..self.panels() * self.depth];
        x86::TilePanels { lines, stride: self.depth, count: panels.len() }
    }
}
