//! Products of matrices that are made on the way, such as attention's scores: packed, multiplied, forgotten.
//!
//! Serial: whoever calls has split the work between threads already.

use super::full::{Tile, product, tile};
use super::isa::Isa;
use super::right::{copy, turn_rows};
use super::{Lane, Line, NO_SUM, PANEL, tiles};
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
        Self { values, row: 1, step: width }
    }

    /// Row `row` and those below it.
    pub(super) fn below(self, row: usize) -> Self {
        self.from(row, 0)
    }

    /// Row `row` and those below it, their elements from `k` on.
    fn from(self, row: usize, k: usize) -> Self {
        Self { values: &self.values[row * self.row + k * self.step..], ..self }
    }

    /// Whether there are `rows` rows of `depth` elements.
    pub(super) fn holds(self, rows: usize, depth: usize) -> bool {
        rows == 0 || depth == 0 || (rows - 1) * self.row + (depth - 1) * self.step < self.values.len()
    }
}

/// The right side of a product, `(depth, columns)`, in panels of 16 columns.
#[derive(Debug, Default)]
pub(crate) struct Operand {
    /// `panels x depth` lanes; columns past the last are zero.
    lanes: Vec<Lane>,
    depth: usize,
    columns: usize,
}

impl Operand {
    /// Becomes `b` of `(depth, columns)`, where `(k, column)` lies at `k * step + column`.
    ///
    /// # Panics
    /// Where `b` is too short.
    pub(crate) fn pack(&mut self, b: &[f32], step: usize, depth: usize, columns: usize) {
        self.shape(depth, columns);
        for (panel, lanes) in self.lanes.chunks_exact_mut(depth.max(1)).enumerate() {
            let first = panel * PANEL;
            let count = PANEL.min(columns - first);
            for (k, lane) in lanes.iter_mut().enumerate() {
                copy(&b[k * step + first..][..count], &mut lane.0[..count]);
            }
        }
    }

    /// Becomes the transpose of `b`, `(columns, depth)`, whose rows are `width` apart.
    ///
    /// # Panics
    /// Where `b` is too short.
    pub(crate) fn pack_turned(&mut self, b: &[f32], width: usize, depth: usize, columns: usize) {
        self.shape(depth, columns);
        turn_rows(Isa::detect(), (b, width), columns, self.lanes.chunks_exact_mut(depth.max(1)));
    }

    fn shape(&mut self, depth: usize, columns: usize) {
        if !columns.is_multiple_of(PANEL) {
            self.lanes.clear(); // columns past the last are zero
        }
        self.lanes.resize(columns.div_ceil(PANEL) * depth, Line([0.0; PANEL]));
        (self.depth, self.columns) = (depth, columns);
    }

    /// `put(row, first column, values)` for each panel that has one of `columns`, and each row of `a` from `from(first
    /// column)` on: `a` times the panel. The last panel's columns past the matrix are zero.
    ///
    /// # Panics
    /// Where `a` has no `rows` rows of as many elements as the matrix has rows, or the ranges are not the matrix's.
    pub(crate) fn multiply(
        &self,
        a: Strided<'_>,
        rows: usize,
        columns: Range<usize>,
        from: impl Fn(usize) -> usize,
        mut put: impl FnMut(usize, usize, &[f32; PANEL]),
    ) {
        assert!(columns.end <= self.columns, "columns {columns:?} of {} x {}", self.depth, self.columns);
        let isa = Isa::detect();
        for panel in columns.start / PANEL..columns.end.div_ceil(PANEL) {
            let (lanes, first) = (&self.lanes[panel * self.depth..][..self.depth], from(panel * PANEL).min(rows));
            if first < rows {
                let put = &mut |row, sums: &_| put(first + row, panel * PANEL, sums);
                product(isa, (a.below(first), Tile::Near), rows - first, lanes, put);
            }
        }
    }

    /// `sums += a b`, to the rows of `sums` from `first` on, over the part `depth` of the matrix's rows. `seen` says of a
    /// tile of rows of `a` which of these elements, counted from the first of them, may not be zero.
    ///
    /// # Panics
    /// As [`Operand::multiply`], and where `sums` has not as many rows or columns.
    pub(crate) fn multiply_add(
        &self,
        a: Strided<'_>,
        depth: Range<usize>,
        seen: impl Fn(&Range<usize>) -> Range<usize>,
        (sums, to): (&mut Total, Range<usize>),
    ) {
        let fits = to.end <= sums.rows && self.columns == sums.columns && depth.end <= self.depth;
        assert!(fits, "rows {to:?} of {} sums, a part of {} x {}", sums.rows, self.depth, self.columns);
        let isa = Isa::detect();
        let panels = self.lanes.chunks_exact(self.depth.max(1)).zip(sums.lanes.chunks_exact_mut(sums.rows.max(1)));
        for (lanes, sums) in panels {
            for rows in tiles(to.len(), isa.rows()) {
                let seen = seen(&rows);
                if !seen.is_empty() {
                    let (a, lanes) = (a.from(rows.start, seen.start), &lanes[depth.clone()][seen]);
                    tile(isa, rows.len(), Tile::Near(a), lanes, &mut sums[to.start + rows.start..to.start + rows.end]);
                }
            }
        }
    }
}

/// What several products add up to: rows in panels of 16 columns.
#[derive(Debug, Default)]
pub(crate) struct Total {
    /// `panels x rows` lanes.
    lanes: Vec<Lane>,
    rows: usize,
    columns: usize,
}

impl Total {
    /// Becomes `rows` rows of zeros.
    pub(crate) fn clear(&mut self, rows: usize, columns: usize) {
        (self.rows, self.columns) = (rows, columns);
        self.lanes.clear();
        self.lanes.resize(columns.div_ceil(PANEL) * rows, NO_SUM);
    }

    /// Writes the rows to `out`, row-major.
    ///
    /// # Panics
    /// Where `out` is too short.
    pub(crate) fn read(&self, out: &mut [f32]) {
        for (lanes, first) in self.lanes.chunks_exact(self.rows.max(1)).zip((0..).step_by(PANEL)) {
            let count = PANEL.min(self.columns - first);
            for (lane, out) in lanes.iter().zip(out.chunks_exact_mut(self.columns)) {
                copy(&lane.0[..count], &mut out[first..][..count]);
            }
        }
    }
}
