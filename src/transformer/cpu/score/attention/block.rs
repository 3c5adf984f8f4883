//! Queries of one prefix or one text, and their products with the keys that at least one of them attends to.

use super::softmax::{KEYS, KeyMask};
use crate::kernels::{Accumulator, PackedOperand, Strided};
use crate::transformer::score::Segments;
use std::ops::Range;

/// Neighbouring queries of a sequence, and the panels of keys they attend to.
#[derive(Debug)]
pub(super) struct QueryBlock {
    /// The sequence's rows of the queries.
    pub(super) rows: Range<usize>,
    /// Panels that at least one query attends to, of the prefix and of the text. A panel with keys of both counts as the
    /// prefix's.
    runs: [Range<usize>; 2],
    /// Rows of the sequence.
    keys: usize,
    /// Each row's mask of each panel.
    masks: Vec<KeyMask>,
}

impl QueryBlock {
    /// The queries `queries` of a sequence of `keys` rows, each attending to `window` tokens.
    pub(super) fn new(queries: Range<usize>, segments: &Segments, window: usize, keys: usize) -> Self {
        // The first query attends to the oldest key, the last one to the newest.
        let [oldest, newest] = [queries.start, queries.end - 1].map(|row| segments.visible(row, window));
        let [prefix, own] = [0, 1].map(|run| {
            let end = newest[run].end.div_ceil(KEYS);
            (oldest[run].start / KEYS).min(end)..end
        });
        let own = if prefix.is_empty() { own } else { own.start.max(prefix.end)..own.end.max(prefix.end) };
        let runs = [prefix, own];
        let of_row = |row| {
            let visible = segments.visible(row, window);
            runs.clone().into_iter().flatten().map(move |panel| KeyMask::of(&visible, panel * KEYS))
        };
        let masks = queries.clone().flat_map(of_row).collect();
        Self { rows: queries, runs, keys, masks }
    }

    /// Panels of scores.
    pub(super) fn panels(&self) -> usize {
        self.runs[0].len() + self.runs[1].len()
    }

    /// The runs that are not empty, each with the first panel of its scores.
    fn runs(&self) -> impl Iterator<Item = (usize, &Range<usize>)> {
        [0, self.runs[0].len()].into_iter().zip(&self.runs).filter(|(_, panels)| !panels.is_empty())
    }

    /// The first query that attends to a key of panel `panel` or later.
    fn first_row(&self, panel: usize) -> usize {
        (panel * KEYS).saturating_sub(self.rows.start).min(self.rows.len())
    }

    /// The masks of row `row` of the block, one per panel.
    pub(super) fn key_masks(&self, row: usize) -> &[KeyMask] {
        &self.masks[row * self.panels()..][..self.panels()]
    }

    /// `a` times the keys: `a` is `(rows, head_dim)`, `keys` is packed from the transposed `(keys, head_dim)`.
    pub(super) fn scores(&self, a: Strided<'_>, keys: &PackedOperand, scores: &mut Accumulator) {
        scores.shape(self.rows.len(), self.panels() * KEYS);
        for (first, panels) in self.runs() {
            keys.multiply(a, panels.clone(), |panel| self.first_row(panel), (scores, first));
        }
    }

    /// `sums += weights * b`, in the rows of `sums` from `first` on; the depth of `b` is the sequence's keys.
    pub(super) fn gather(&self, weights: &Accumulator, b: &PackedOperand, (sums, first): (&mut Accumulator, usize)) {
        for (panel, panels) in self.runs() {
            let keys = panels.start * KEYS..self.keys.min(panels.end * KEYS);
            let attended = |rows: &Range<usize>| keys.end.min(self.rows.start + rows.end).saturating_sub(keys.start);
            b.multiply_add((weights, panel), keys.clone(), attended, (sums, first));
        }
    }

    /// `sums += (weights^T b)^T`: one column per key, summed over the block's rows; `b` is `(rows, head_dim)`.
    pub(super) fn scatter(&self, weights: &Accumulator, b: Strided<'_>, sums: &mut Accumulator) {
        for (first, panels) in self.runs() {
            sums.add_product(panels.clone(), b.transposed(), (weights, first), |panel| self.first_row(panel));
        }
    }
}
