//! Rows of activations as the right-hand side of a product: `dx^T = W^T dy^T`.
//!
//! The backward product reads `W^T` from the panels of `W` as its left-hand side, so `dy` and `dx` are packed in panels
//! of 16 rows.

use super::isa::Isa;
use super::layout::{Lane, NO_SUM, PANEL, tiles};
use super::operands::{Beta, Lhs, RhsPanels};
use super::packed_matrix::PackedMatrix;
use super::packed_rows::panel_groups;
use super::tile::tile;
use super::transpose16::{panel_to_rows, prefetch16, rows_to_panels, transpose_lanes};
use super::weight_prefetch::WeightPrefetch;
use std::ops::Range;

/// Outputs of `W` in one step of the backward product, at most.
pub(super) const OUTPUTS: usize = 288;
/// Inputs in one block: with [`OUTPUTS`] outputs they stay in the second-level cache while all rows use them.
const INPUTS: usize = 48;

/// Rows in panels of 16, each `(depth, 16)`; rows past the last are zero.
#[derive(Default)]
pub(super) struct Rhs {
    lanes: Vec<Lane>,
    depth: usize,
    rows: usize,
}

impl Rhs {
    /// Resizes to `rows` rows of `depth` elements with unspecified values.
    pub(super) fn shape(&mut self, depth: usize, rows: usize) {
        (self.depth, self.rows) = (depth, rows);
        let lanes = rows.div_ceil(PANEL) * depth;
        if self.lanes.len() < lanes {
            self.lanes.resize(lanes, NO_SUM);
        }
    }

    /// Resizes to `rows` rows of `depth` zeros.
    pub(super) fn clear(&mut self, depth: usize, rows: usize) {
        self.shape(depth, rows);
        self.panels_mut().for_each(|lanes| lanes.fill(NO_SUM));
    }

    /// The elements `depth` of all rows.
    pub(super) fn slice(&self, depth: &Range<usize>) -> RhsPanels<'_> {
        let (lanes, count) = (&self.lanes[depth.start..], self.rows.div_ceil(PANEL));
        RhsPanels { lanes, depth: depth.len(), stride: self.depth, count }
    }

    /// The rows, panel by panel.
    fn panels(&self) -> impl Iterator<Item = &[Lane]> {
        self.lanes.chunks_exact(self.depth.max(1)).take(self.rows.div_ceil(PANEL))
    }

    fn panels_mut(&mut self) -> impl Iterator<Item = &mut [Lane]> {
        self.lanes.chunks_exact_mut(self.depth.max(1)).take(self.rows.div_ceil(PANEL))
    }

    /// Packs the first `depth` elements of `rows` rows that are `width` floats apart.
    pub(super) fn fill(&mut self, isa: Isa, values: &[f32], width: usize, depth: usize, rows: usize) {
        self.shape(depth, rows);
        rows_to_panels(isa, (values, width), rows, self.panels_mut());
    }

    /// Packs `rows` rows from panels of 16 elements, `(panels, rows)` lanes.
    pub(super) fn fill_transposed(&mut self, isa: Isa, lanes: &[Lane], rows: usize) {
        self.shape(lanes.len() / rows * PANEL, rows);
        for (panel, to) in self.panels_mut().enumerate() {
            let count = PANEL.min(rows - panel * PANEL);
            for (transposed, lanes) in to.as_chunks_mut::<PANEL>().0.iter_mut().zip(lanes.chunks_exact(rows)) {
                transpose_lanes(isa, &lanes[panel * PANEL..][..count], transposed);
            }
        }
    }

    /// Multiplies each row by its factor.
    pub(super) fn scale_rows(&mut self, factors: impl Iterator<Item = f32>) {
        let factors: Vec<f32> = factors.collect();
        for (factors, lanes) in factors.chunks(PANEL).zip(self.panels_mut()) {
            if factors.iter().all(|factor| *factor == 1.0) {
                continue;
            }
            for lane in lanes {
                lane.0.iter_mut().zip(factors).for_each(|(value, factor)| *value *= factor);
            }
        }
    }

    /// Calls `put(row, first element, values)` for every 16 elements of each row; the last ones are padded with zeros.
    pub(super) fn read(&self, isa: Isa, mut put: impl FnMut(usize, usize, &[f32; PANEL])) {
        let mut transposed = [NO_SUM; PANEL];
        for (panel, lanes) in self.panels().enumerate() {
            for (lanes, first) in lanes.chunks(PANEL).zip((0..).step_by(PANEL)) {
                transpose_lanes(isa, lanes, &mut transposed);
                for (row, lane) in (panel * PANEL..self.rows).zip(&transposed) {
                    put(row, first, &lane.0);
                }
            }
        }
    }

    /// Writes the rows to the columns of `out` from `first` on, where rows are `width` floats apart.
    pub(super) fn read_to(&self, isa: Isa, out: &mut [f32], (width, first): (usize, usize)) {
        for (lanes, out) in self.panels().zip(out.chunks_mut(PANEL * width)) {
            let rows = out.len().div_ceil(width);
            for (lanes, first) in lanes.chunks(PANEL).zip((first..).step_by(PANEL)) {
                prefetch16(&out[first..], width);
                panel_to_rows(isa, lanes, rows, (&mut out[first..], width));
            }
        }
    }

    /// Adds `inputs` of `dy W` to the elements from `first` on. `dy` has as many rows and holds `outputs` of `W` alone,
    /// the first of which is a multiple of 16.
    pub(super) fn add(
        &mut self,
        isa: Isa,
        w: &PackedMatrix,
        (inputs, first): (Range<usize>, usize),
        outputs: Range<usize>,
        dy: RhsPanels<'_>,
    ) {
        for block in blocks(inputs.clone(), outputs) {
            let first = first + block.inputs.start - inputs.start;
            self.add_block(isa, w, &block, first, (dy, Beta::One));
        }
    }

    /// [`Rhs::add`] of one block, to the sums times `beta`.
    pub(super) fn add_block(
        &mut self,
        isa: Isa,
        w: &PackedMatrix,
        WeightBlock { inputs, outputs, next }: &WeightBlock,
        first: usize,
        (dy, beta): (RhsPanels<'_>, Beta),
    ) {
        let panels = self.rows.div_ceil(PANEL);
        let steps = panels.div_ceil(isa.panels()) * inputs.len().div_ceil(isa.rows());
        let mut prefetch = WeightPrefetch::new(w, next.0.clone(), next.1.clone(), steps);
        for panels in panel_groups(isa, 0..panels) {
            let sums = &mut self.lanes[panels.start * self.depth + first..];
            for rows in tiles(inputs.len(), isa.rows()) {
                let weights = w.lanes_from(outputs.start / PANEL, inputs.start + rows.start);
                let transposed = Lhs::Transposed { weights, inputs: w.inputs(), next: prefetch.step() };
                tile(isa, rows.len(), transposed, dy.slice(&panels), (&mut sums[rows.start..], self.depth), beta);
            }
        }
    }
}

/// Splits outputs into nearly equal steps of whole panels, at most [`OUTPUTS`] each: a short step costs as much memory
/// traffic for its sums as a long one.
pub(super) fn steps(outputs: usize) -> impl Iterator<Item = Range<usize>> {
    let panels = tiles(outputs.div_ceil(PANEL), OUTPUTS / PANEL);
    panels.map(move |panels| panels.start * PANEL..outputs.min(panels.end * PANEL))
}

/// Inputs and outputs of a matrix that are multiplied at a time.
pub(super) struct WeightBlock {
    pub(super) inputs: Range<usize>,
    outputs: Range<usize>,
    /// The next panels and their inputs, to be prefetched.
    next: (Range<usize>, Range<usize>),
}

/// The inputs `inputs` of the outputs `outputs` of a matrix, block by block.
pub(super) fn blocks(inputs: Range<usize>, outputs: Range<usize>) -> impl Iterator<Item = WeightBlock> {
    let panels = outputs.start / PANEL..outputs.end.div_ceil(PANEL);
    let (start, count) = (inputs.start, inputs.len());
    let mut ranges = tiles(count, INPUTS).map(move |block| start + block.start..start + block.end).peekable();
    let first = ranges.peek().cloned().unwrap_or_default();
    std::iter::from_fn(move || {
        let inputs = ranges.next()?;
        // The last inputs are followed by the first inputs of the next outputs.
        let next = match ranges.peek() {
            Some(next) => (panels.clone(), next.clone()),
            None => (panels.end..panels.end + panels.len(), first.clone()),
        };
        Some(WeightBlock { inputs, outputs: outputs.clone(), next })
    })
}
