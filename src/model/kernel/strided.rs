//! Products of matrices that are made on the way, such as attention's scores: packed, multiplied, forgotten.
//!
//! Serial: whoever calls has split the work between threads already.

use super::full::{Tile, product};
use super::isa::Isa;
use super::{Lane, Line, PANEL};
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
                lane.0[..count].copy_from_slice(&b[k * step + first..][..count]);
            }
        }
    }

    /// Becomes the transpose of `b`, `(columns, depth)`, whose rows are `width` apart.
    ///
    /// # Panics
    /// Where `b` is too short.
    pub(crate) fn pack_turned(&mut self, b: &[f32], width: usize, depth: usize, columns: usize) {
        self.shape(depth, columns);
        for column in 0..columns {
            let lanes = &mut self.lanes[column / PANEL * depth..][..depth];
            for (lane, &value) in lanes.iter_mut().zip(&b[column * width..][..depth]) {
                lane.0[column % PANEL] = value;
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

    /// `out += a b`: `out` is `(rows, width)` row-major and takes the first columns of the product.
    ///
    /// # Panics
    /// As [`Operand::multiply`], and where `out` is too short.
    pub(crate) fn multiply_add(&self, a: Strided<'_>, rows: usize, depth: Range<usize>, out: &mut [f32], width: usize) {
        self.multiply(a, rows, depth, 0..self.columns, |row, first, sums| {
            let count = PANEL.min(self.columns - first);
            add(&sums[..count], &mut out[row * width + first..][..count]);
        });
    }
}

/// Adds `from`; a whole panel at once, where the length is known.
fn add(from: &[f32], to: &mut [f32]) {
    let sum = |(to, from): (&mut f32, &f32)| *to += from;
    match (<&[f32; PANEL]>::try_from(from), <&mut [f32; PANEL]>::try_from(&mut *to)) {
        (Ok(from), Ok(to)) => to.iter_mut().zip(from).for_each(sum),
        _ => to.iter_mut().zip(from).for_each(sum),
    }
}
