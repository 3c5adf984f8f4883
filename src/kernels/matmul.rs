//! Products of two temporary matrices, such as queries and keys: pack one, multiply, read the result.
//!
//! Serial: callers have split the work between threads.

use super::isa::Isa;
use super::layout::{Lane, Line, NO_SUM, PANEL, copy, tiles};
use super::operands::{Beta, Lhs, RhsPanels, Strided};
use super::packed_rows::panel_groups;
use super::tile::tile;
use super::transpose16::{panel_to_rows, rows_to_panels};
use std::ops::Range;

/// The right-hand side of a product, `(depth, columns)`, in panels of 16 columns.
#[derive(Debug, Default)]
pub(crate) struct PackedOperand {
    /// `panels x depth` lanes; columns past the last are zero.
    lanes: Vec<Lane>,
    depth: usize,
    columns: usize,
}

impl PackedOperand {
    /// Packs `b` of `(depth, columns)`, whose element `(k, column)` is at `k * step + column`.
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

    /// Packs the transpose of `b`, `(columns, depth)`, with rows `width` apart.
    ///
    /// # Panics
    /// Where `b` is too short.
    pub(crate) fn pack_transposed(&mut self, b: &[f32], width: usize, depth: usize, columns: usize) {
        self.shape(depth, columns);
        rows_to_panels(Isa::detect(), (b, width), columns, self.lanes.chunks_exact_mut(depth.max(1)));
    }

    fn shape(&mut self, depth: usize, columns: usize) {
        if !columns.is_multiple_of(PANEL) {
            self.lanes.clear(); // columns past the last are zero
        }
        self.lanes.resize(columns.div_ceil(PANEL) * depth, Line([0.0; PANEL]));
        (self.depth, self.columns) = (depth, columns);
    }

    /// `to = a b` for the panels `panels` of `b`, written to the panels of `to` from `first` on. Only the rows from
    /// `from(panel)` on are written.
    ///
    /// # Panics
    /// Where `a` has fewer rows than `to` or fewer elements than `b` has rows, or a panel is out of range.
    pub(crate) fn multiply(
        &self,
        a: Strided<'_>,
        panels: Range<usize>,
        from: impl Fn(usize) -> usize,
        (to, first): (&mut Accumulator, usize),
    ) {
        let (isa, depth, height) = (Isa::detect(), self.depth, to.rows);
        let operand =
            RhsPanels { lanes: &self.lanes[panels.start * depth..], depth, stride: depth, count: panels.len() };
        let sums = &mut to.lanes[first * height..];
        each_shared_range(
            isa,
            panels.len(),
            |index| from(panels.start + index),
            height,
            |panels, rows| {
                for tile_rows in tiles(rows.len(), isa.rows()) {
                    let (row, count) = (rows.start + tile_rows.start, tile_rows.len());
                    let to = (&mut sums[panels.start * height + row..], height);
                    tile(isa, count, Lhs::Cached(a.skip_rows(row)), operand.slice(&panels), to, Beta::Zero);
                }
            },
        );
    }

    /// `sums += a b` in the rows of `sums` from `to` on. `a` has the panels from `first` on, which meet the rows
    /// `depth` of `b`. `seen` says how many of these elements may differ from zero in a tile of rows of `a`.
    ///
    /// # Panics
    /// Where elements or rows are out of range, or `sums` has another number of columns.
    pub(crate) fn multiply_add(
        &self,
        (a, first): (&Accumulator, usize),
        depth: Range<usize>,
        seen: impl Fn(&Range<usize>) -> usize,
        (sums, to): (&mut Accumulator, usize),
    ) {
        let fits = self.columns == sums.columns && to + a.rows <= sums.rows && depth.end <= self.depth;
        assert!(fits, "rows from {to} on of {}, rows of {} x {}", sums.rows, self.depth, self.columns);
        let (isa, left) = (Isa::detect(), &a.lanes[first * a.rows..]);
        for panels in panel_groups(isa, 0..self.columns.div_ceil(PANEL)) {
            let lanes = &self.lanes[panels.start * self.depth + depth.start..];
            for rows in tiles(a.rows, isa.rows()) {
                let seen = seen(&rows);
                if seen > 0 {
                    let transposed = Lhs::Transposed { weights: &left[rows.start..], inputs: a.rows, next: &[] };
                    let operand = RhsPanels { lanes, depth: seen, stride: self.depth, count: panels.len() };
                    let to = (&mut sums.lanes[panels.start * sums.rows + to + rows.start..], sums.rows);
                    tile(isa, rows.len(), transposed, operand, to, Beta::One);
                }
            }
        }
    }
}

/// Calls `work(panels, range)` so that each of `count` panels gets the range from `begin(panel)` to `end`, neighbouring
/// panels together where their ranges overlap. `begin` does not decrease and is at most `end`.
fn each_shared_range(
    isa: Isa,
    count: usize,
    begin: impl Fn(usize) -> usize,
    end: usize,
    mut work: impl FnMut(Range<usize>, Range<usize>),
) {
    for panels in panel_groups(isa, 0..count) {
        for last in panels.clone() {
            let (first, next) = (begin(last), if last + 1 < panels.end { begin(last + 1) } else { end });
            assert!(first <= next, "panel {last} begins at {first}, the next at {next}");
            if first < next {
                work(panels.start..last + 1, first..next);
            }
        }
    }
}

/// The result of products: rows in panels of 16 columns.
#[derive(Debug, Default)]
pub(crate) struct Accumulator {
    /// `panels x rows` lanes.
    lanes: Vec<Lane>,
    rows: usize,
    columns: usize,
}

impl Accumulator {
    /// Columns of a panel.
    pub(crate) const WIDTH: usize = PANEL;

    /// Resizes to `rows` rows with unspecified values.
    pub(crate) fn shape(&mut self, rows: usize, columns: usize) {
        (self.rows, self.columns) = (rows, columns);
        self.lanes.resize(columns.div_ceil(PANEL) * rows, NO_SUM);
    }

    /// Resizes to `rows` rows of zeros.
    pub(crate) fn clear(&mut self, rows: usize, columns: usize) {
        self.shape(rows, columns);
        self.lanes.fill(NO_SUM);
    }

    /// 16 columns of row `row`, mutable.
    #[inline(always)]
    pub(crate) fn lane_mut(&mut self, panel: usize, row: usize) -> &mut [f32; PANEL] {
        &mut self.lanes[panel * self.rows + row].0
    }

    /// Adds `a b` to the panels `to`. `b` has the panels of another accumulator from `panel` on, of which only the rows
    /// from `from(panel of self)` on count. `a` has as many rows as `self` and as many elements as `b` has rows.
    ///
    /// # Panics
    /// Where panels, rows or elements are out of range.
    pub(crate) fn add_product(
        &mut self,
        to: Range<usize>,
        a: Strided<'_>,
        (b, panel): (&Self, usize),
        from: impl Fn(usize) -> usize,
    ) {
        let (isa, height) = (Isa::detect(), self.rows);
        let (lanes, sums) = (&b.lanes[panel * b.rows..], &mut self.lanes[to.start * height..]);
        each_shared_range(
            isa,
            to.len(),
            |index| from(to.start + index),
            b.rows,
            |panels, depth| {
                let (a, lanes) = (a.skip_elements(depth.start), &lanes[panels.start * b.rows + depth.start..]);
                let operand = RhsPanels { lanes, depth: depth.len(), stride: b.rows, count: panels.len() };
                for rows in tiles(height, isa.rows()) {
                    let to = (&mut sums[panels.start * height + rows.start..], height);
                    tile(isa, rows.len(), Lhs::Cached(a.skip_rows(rows.start)), operand, to, Beta::One);
                }
            },
        );
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

    /// Writes the columns to `out`, column-major.
    ///
    /// # Panics
    /// Where `out` is too short.
    pub(crate) fn read_columns(&self, out: &mut [f32]) {
        let (isa, rows) = (Isa::detect(), self.rows);
        for (lanes, out) in self.lanes.chunks_exact(rows.max(1)).zip(out.chunks_mut(PANEL * rows.max(1))) {
            let columns = out.len() / rows;
            for (lanes, first) in lanes.chunks(PANEL).zip((0..).step_by(PANEL)) {
                panel_to_rows(isa, lanes, columns, (&mut out[first..], rows));
            }
        }
    }
}
