//! Rows of 16 floats, a cache line each: small products of matrices that are in the cache.

use super::isa::Isa;
use super::layout::{Lane, NO_SUM, PANEL, tiles};
use super::operands::{Beta, Lhs, RhsPanels, Strided};
use super::tile::tile;
use std::ops::Range;

/// Lanes of 16 floats; what they stand for is their owner's.
#[derive(Debug, Default)]
pub(crate) struct PanelBuffer {
    lanes: Vec<Lane>,
}

impl PanelBuffer {
    /// Floats of a lane.
    pub(crate) const WIDTH: usize = PANEL;

    /// Becomes `lanes` lanes, whatever they are.
    pub(crate) fn resize(&mut self, lanes: usize) {
        self.lanes.resize(lanes, NO_SUM);
    }

    /// How many lanes there are.
    pub(crate) fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// Makes some lanes zero.
    pub(crate) fn clear(&mut self, lanes: Range<usize>) {
        self.lanes[lanes].fill(NO_SUM);
    }

    /// One lane.
    pub(crate) fn lane(&self, index: usize) -> &[f32; PANEL] {
        &self.lanes[index].0
    }

    /// One lane, to be changed.
    pub(crate) fn lane_mut(&mut self, index: usize) -> &mut [f32; PANEL] {
        &mut self.lanes[index].0
    }

    /// Becomes a matrix whose rows, `columns` wide, are widened by `widen`: `(columns / 16, rows)` lanes. Columns past the
    /// last are whatever they were.
    #[inline(always)]
    pub(crate) fn fill<T: Copy>(&mut self, values: &[T], columns: usize, widen: impl Fn(T) -> f32) {
        let rows = values.len() / columns;
        self.lanes.resize(columns.div_ceil(PANEL) * rows, NO_SUM);
        for (panel, lanes) in self.lanes.chunks_exact_mut(rows.max(1)).enumerate() {
            let first = panel * PANEL;
            let count = PANEL.min(columns - first);
            for (lane, row) in lanes.iter_mut().zip(values.chunks_exact(columns)) {
                match <&[T; PANEL]>::try_from(&row[first..first + count]) {
                    Ok(row) => lane.0 = row.map(&widen),
                    Err(_) => {
                        lane.0.iter_mut().zip(&row[first..first + count]).for_each(|(to, from)| *to = widen(*from))
                    }
                }
            }
        }
    }

    /// `self[to] += a b`: lanes `to` are the product's rows, lanes `depth` of `b` what each row of `a` is as deep as. Every
    /// sum is one chain in the order of the depth.
    ///
    /// # Panics
    /// Where `a` has no such rows, or there are no such lanes.
    pub(crate) fn add_product(&mut self, to: Range<usize>, a: Strided<'_>, b: &Self, depth: Range<usize>) {
        let (isa, sums, lanes) = (Isa::detect(), &mut self.lanes[to], RhsPanels::one(&b.lanes[depth]));
        for rows in tiles(sums.len(), isa.rows_alone()) {
            tile(isa, rows.len(), Lhs::Cached(a.below(rows.start)), lanes, (&mut sums[rows], 0), Beta::One);
        }
    }
}
