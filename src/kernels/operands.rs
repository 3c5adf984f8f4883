//! The operands of a tile: its rows, its panels, and the factor of the sums that are there.

use super::layout::{Lane, PANEL};
use std::ops::Range;

/// A matrix with strides: element `(row, k)` is at `row * self.row + k * self.step`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strided<'a> {
    /// The values from element `(0, 0)` on.
    pub(crate) values: &'a [f32],
    /// Floats from one row to the next.
    pub(crate) row: usize,
    /// Floats from one element of a row to the next.
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

    /// The rows from `row` on.
    pub(super) fn skip_rows(self, row: usize) -> Self {
        Self { values: &self.values[row * self.row..], ..self }
    }

    /// The elements of all rows from `k` on.
    pub(super) fn skip_elements(self, k: usize) -> Self {
        Self { values: &self.values[k * self.step..], ..self }
    }

    /// Whether there are `rows` rows of `depth` elements.
    pub(super) fn holds(self, rows: usize, depth: usize) -> bool {
        rows == 0 || depth == 0 || (rows - 1) * self.row + (depth - 1) * self.step < self.values.len()
    }
}

/// The left-hand side of a tile: rows in one of the layouts that tiles read.
#[derive(Clone, Copy)]
pub(super) enum Lhs<'a> {
    /// Strided; the panel comes from memory and is prefetched on the way.
    Strided(Strided<'a>),
    /// Strided; the panel is in the cache.
    Cached(Strided<'a>),
    /// `(depth, rows)`. The lanes `next` are prefetched on the way, a line every four steps of the depth.
    PackedRows { rows: &'a [f32], next: &'a [Lane] },
    /// Inputs of packed weights: element `k` of a row is the weight of output `k`. 16 outputs take `inputs` lanes.
    /// `next` as above.
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

/// The right-hand side of a tile: the same lanes of several panels.
#[derive(Clone, Copy)]
pub(super) struct RhsPanels<'a> {
    /// The lanes from the first panel's first one on.
    pub(super) lanes: &'a [Lane],
    /// Lanes of each panel.
    pub(super) depth: usize,
    /// Lanes from one panel to the next.
    pub(super) stride: usize,
    pub(super) count: usize,
}

impl<'a> RhsPanels<'a> {
    /// A single panel.
    pub(super) fn one(lanes: &'a [Lane]) -> Self {
        Self { lanes, depth: lanes.len(), stride: 0, count: 1 }
    }

    /// The panels `panels`.
    pub(super) fn slice(self, panels: &Range<usize>) -> Self {
        Self { lanes: &self.lanes[panels.start * self.stride..], count: panels.len(), ..self }
    }

    /// Whether there are as many lanes and panels.
    pub(super) fn is_complete(self) -> bool {
        self.count > 0 && (self.count - 1) * self.stride + self.depth <= self.lanes.len()
    }
}

/// The factor of the sums that are there, as in BLAS: `sums = a b + beta * sums`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beta {
    /// The product is added to the sums.
    One,
    /// The product replaces the sums.
    Zero,
}
