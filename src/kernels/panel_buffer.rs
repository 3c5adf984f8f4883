//! Lanes of 16 floats, a cache line each: small products of matrices that are in the cache.

use super::isa::Isa;
use super::layout::{Lane, NO_SUM, PANEL, tiles};
use super::operands::{Beta, Lhs, RhsPanels, Strided};
use super::tile::tile;
use std::ops::Range;

/// Lanes of 16 floats; their owner defines what they hold.
#[derive(Debug, Default)]
pub(crate) struct PanelBuffer {
    lanes: Vec<Lane>,
}

impl PanelBuffer {
    /// Floats of a lane.
    pub(crate) const WIDTH: usize = PANEL;

    /// Resizes to `lanes` lanes with unspecified values.
    pub(crate) fn resize(&mut self, lanes: usize) {
        self.lanes.resize(lanes, NO_SUM);
    }

    /// Number of lanes.
    pub(crate) fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// Sets lanes to zero.
    pub(crate) fn clear(&mut self, lanes: Range<usize>) {
        self.lanes[lanes].fill(NO_SUM);
    }

    /// One lane.
    pub(crate) fn lane(&self, index: usize) -> &[f32; PANEL] {
        &self.lanes[index].0
    }

    /// One lane, mutable.
    pub(crate) fn lane_mut(&mut self, index: usize) -> &mut [f32; PANEL] {
        &mut self.lanes[index].0
    }

    /// Packs a matrix of elements with rows of `columns`; each element is `together` values of as many rows, widened by
    /// `widen`: `(columns / 16, rows)` lanes. Columns past the last are unspecified.
    #[inline(always)]
    pub(crate) fn fill<T: Copy>(
        &mut self,
        values: &[T],
        columns: usize,
        together: usize,
        widen: impl Fn(T, usize) -> f32,
    ) {
        let rows = values.len() / columns;
        self.lanes.resize(columns.div_ceil(PANEL) * rows * together, NO_SUM);
        for (panel, lanes) in self.lanes.chunks_exact_mut((rows * together).max(1)).enumerate() {
            let first = panel * PANEL;
            let count = PANEL.min(columns - first);
            for (lanes, row) in lanes.chunks_exact_mut(together).zip(values.chunks_exact(columns)) {
                for (part, lane) in lanes.iter_mut().enumerate() {
                    let row = &row[first..first + count];
                    match <&[T; PANEL]>::try_from(row) {
                        Ok(row) => lane.0 = row.map(|value| widen(value, part)),
                        Err(_) => lane.0.iter_mut().zip(row).for_each(|(to, from)| *to = widen(*from, part)),
                    }
                }
            }
        }
    }

    /// `self[to] += a b`: the lanes `to` are the product's rows, the lanes `depth` of `b` its depth. Every sum is one
    /// chain in the order of the depth.
    ///
    /// # Panics
    /// Where rows of `a` or lanes are out of range.
    pub(crate) fn add_product(&mut self, to: Range<usize>, a: Strided<'_>, b: &Self, depth: Range<usize>) {
        let (isa, sums, lanes) = (Isa::detect(), &mut self.lanes[to], RhsPanels::one(&b.lanes[depth]));
        for rows in tiles(sums.len(), isa.single_panel_rows()) {
            tile(isa, rows.len(), Lhs::Cached(a.skip_rows(rows.start)), lanes, (&mut sums[rows], 0), Beta::One);
        }
    }
}
