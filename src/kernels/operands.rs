//! The operands of a tile: rows, panels, and whether the product is added to what is there.

use super::layout::{Lane, PANEL};
use std::ops::Range;

/// A matrix read through strides: `(row, k)` lies at `row * self.row + k * self.step`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strided<'a> {
    /// Where `(0, 0)` is, and all behind it.
    pub(crate) values: &'a [f32],
    /// Floats from a row to the next.
    pub(crate) row: usize,
    /// Floats from an element to the next of its row.
    pub(crate) step: usize,
}

impl<'a> Strided<'a> {
    /// A row-major matrix whose rows are `width` apart.
    pub(crate) fn rows(values: &'a [f32], width: usize) -> Self {
        Self { values, row: width, step: 1 }
    }

    /// The transpose of a row-major matrix whose rows are `width` apart.
    pub(crate) fn columns(values: &'a [f32], width: usize) -> Self {
        Self::rows(values, width).transposed()
    }

    /// The transpose.
    pub(crate) fn transposed(self) -> Self {
        Self { row: self.step, step: self.row, ..self }
    }

    /// Row `row` and those below it.
    pub(super) fn below(self, row: usize) -> Self {
        Self { values: &self.values[row * self.row..], ..self }
    }

    /// Elements of all rows from element `k` on.
    pub(crate) fn behind(self, k: usize) -> Self {
        Self { values: &self.values[k * self.step..], ..self }
    }

    /// Whether there are `rows` rows of `depth` elements.
    pub(super) fn holds(self, rows: usize, depth: usize) -> bool {
        rows == 0 || depth == 0 || (rows - 1) * self.row + (depth - 1) * self.step < self.values.len()
    }
}

/// Rows as a tile reads them.
#[derive(Clone, Copy)]
pub(super) enum Lhs<'a> {
    /// As they lie; the panel comes from memory, and is asked for on the way.
    Strided(Strided<'a>),
    /// As they lie; the panel is in the cache.
    Cached(Strided<'a>),
    /// `(depth, rows)`. On the way the lanes `next` are asked for, as many as there is time for.
    PackedRows { rows: &'a [f32], next: &'a [Lane] },
    /// Inputs of packed weights: element `k` of a row is the weight of output `k`. 16 outputs are `inputs` lanes long. `next`
    /// as above.
    Transposed { weights: &'a [Lane], inputs: usize, next: &'a [Lane] },
}

impl Lhs<'_> {
    /// Whether there are `height` rows of `depth` elements.
    pub(super) fn holds(self, height: usize, depth: usize) -> bool {
        match self {
            Self::Strided(values) | Self::Cached(values) => values.holds(height, depth),
            Self::PackedRows { rows, .. } => rows.len() == height * depth,
            Self::Transposed { weights, inputs, .. } => {
                depth == 0 || (depth.div_ceil(PANEL) - 1) * inputs + height <= weights.len()
            }
        }
    }
}

/// Panels that rows meet together: from each of them as many lanes.
#[derive(Clone, Copy)]
pub(super) struct RhsPanels<'a> {
    /// Those of the first panel, and all behind them.
    pub(super) lanes: &'a [Lane],
    /// How many lanes of each.
    pub(super) depth: usize,
    /// Lanes from a panel to the next.
    pub(super) stride: usize,
    pub(super) count: usize,
}

impl<'a> RhsPanels<'a> {
    /// A panel by itself.
    pub(super) fn one(lanes: &'a [Lane]) -> Self {
        Self { lanes, depth: lanes.len(), stride: 0, count: 1 }
    }

    /// Some of them.
    pub(super) fn slice(self, panels: &Range<usize>) -> Self {
        Self { lanes: &self.lanes[panels.start * self.stride..], count: panels.len(), ..self }
    }

    /// Whether they are there.
    pub(super) fn hold(self) -> bool {
        self.count > 0 && (self.count - 1) * self.stride + self.depth <= self.lanes.len()
    }
}

/// The factor of the sums that are there, as BLAS has it: `sums = a b + beta * sums`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beta {
    /// The product is added to the sums.
    One,
    /// The product replaces the sums.
    Zero,
}
