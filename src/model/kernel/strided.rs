//! Products of matrices that are made on the way, such as attention's scores: packed, multiplied, forgotten.
//!
//! Serial: whoever calls has split the work between threads already.

use super::full::{Tile, product, tile, transpose};
use super::isa::Isa;
use super::right::copy;
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
        Self { values: &self.values[row * self.row..], ..self }
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
        let isa = Isa::detect();
        for (panel, lanes) in self.lanes.chunks_exact_mut(depth.max(1)).enumerate() {
            let first = panel * PANEL;
            for (lanes, k) in lanes.chunks_mut(PANEL).zip((0..).step_by(PANEL)) {
                let (mut square, mut turned) = ([NO_SUM; PANEL], [NO_SUM; PANEL]);
                for (lane, column) in square.iter_mut().zip(first..columns) {
                    copy(&b[column * width + k..][..lanes.len()], &mut lane.0[..lanes.len()]);
                }
                transpose(isa, &square, &mut turned);
                lanes.copy_from_slice(&turned[..lanes.len()]);
            }
        }
    }

    fn shape(&mut self, depth: usize, columns: usize) {
        if !columns.is_multiple_of(PANEL) {
            self.lanes.clear(); // columns past the last are zero
        }
        self.lanes.resize(columns.div_ceil(PANEL) * depth, Line([0.0; PANEL]));
        (self.depth, self.columns) = (depth, columns);
    }

    /// `put(row, first column, values)` for each row of `a` and each panel that has one of `columns`: `a` times these
    /// panels' `depth` rows. The last panel's columns past the matrix are zero.
    ///
    /// # Panics
    /// Where `a` has no `rows` rows of as many elements as `depth` has, or the ranges are not the matrix's.
    pub(crate) fn multiply(
        &self,
        a: Strided<'_>,
        rows: usize,
        depth: Range<usize>,
        columns: Range<usize>,
        mut put: impl FnMut(usize, usize, &[f32; PANEL]),
    ) {
        assert!(depth.end <= self.depth && columns.end <= self.columns, "a part of {} x {}", self.depth, self.columns);
        let isa = Isa::detect();
        for panel in columns.start / PANEL..columns.end.div_ceil(PANEL) {
            let lanes = &self.lanes[panel * self.depth..][depth.clone()];
            product(isa, (a, Tile::Near), rows, lanes, &mut |row, sums| put(row, panel * PANEL, sums));
        }
    }

    /// `sums += a b`, to the rows of `sums` from `first` on.
    ///
    /// # Panics
    /// As [`Operand::multiply`], and where `sums` has not as many rows or columns.
    pub(crate) fn multiply_add(
        &self,
        a: Strided<'_>,
        rows: usize,
        depth: Range<usize>,
        sums: &mut Total,
        first: usize,
    ) {
        assert!(
            first + rows <= sums.rows && self.columns == sums.columns && depth.end <= self.depth,
            "{rows} rows of sums"
        );
        let isa = Isa::detect();
        let panels = self.lanes.chunks_exact(self.depth.max(1)).zip(sums.lanes.chunks_exact_mut(sums.rows.max(1)));
        for (lanes, sums) in panels {
            for rows in tiles(rows, isa.rows()) {
                let (a, sums) = (Tile::Near(a.below(rows.start)), &mut sums[first + rows.start..first + rows.end]);
                tile(isa, rows.len(), a, &lanes[depth.clone()], sums);
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
