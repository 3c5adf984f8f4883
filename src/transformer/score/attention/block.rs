//! Queries of one prefix or one text, and their scores over the keys that at least one of them sees.

use super::softmax::{KEYS, Seen};
use crate::kernels::{Accumulator, PackedOperand, Strided};
use crate::transformer::score::packed::Segments;
use std::ops::Range;

/// Neighbouring queries of a sequence, and panels of the sequence's keys.
#[derive(Debug)]
pub(super) struct Block {
    /// The queries' rows of the sequence.
    pub(super) rows: Range<usize>,
    /// Panels that at least one query sees, of the prefix and then of the text. One that has keys of both is among the
    /// prefix's.
    runs: [Range<usize>; 2],
    /// Rows of the sequence.
    keys: usize,
    /// What each row sees of each of the panels.
    seen: Vec<Seen>,
}

impl Block {
    /// The queries `queries` of a sequence of `keys` rows, of which each sees `window` tokens.
    pub(super) fn new(queries: Range<usize>, segments: &Segments, window: usize, keys: usize) -> Self {
        // The first query sees the oldest key, the last one the newest.
        let [oldest, newest] = [queries.start, queries.end - 1].map(|row| segments.visible(row, window));
        let [prefix, own] = [0, 1].map(|run| {
            let end = newest[run].end.div_ceil(KEYS);
            (oldest[run].start / KEYS).min(end)..end
        });
        let own = if prefix.is_empty() { own } else { own.start.max(prefix.end)..own.end.max(prefix.end) };
        let runs = [prefix, own];
        let of_row = |row| {
            let visible = segments.visible(row, window);
            runs.clone().into_iter().flatten().map(move |panel| Seen::of(&visible, panel * KEYS))
        };
        let seen = queries.clone().flat_map(of_row).collect();
        Self { rows: queries, runs, keys, seen }
    }

    /// Panels of scores.
    pub(super) fn panels(&self) -> usize {
        self.runs[0].len() + self.runs[1].len()
    }

    /// Both runs that have panels, each behind where its scores begin.
    fn runs(&self) -> impl Iterator<Item = (usize, &Range<usize>)> {
        [0, self.runs[0].len()].into_iter().zip(&self.runs).filter(|(_, panels)| !panels.is_empty())
    }

    /// The first query that sees a key of panel `panel`, or one behind it.
    fn first_row(&self, panel: usize) -> usize {
        (panel * KEYS).saturating_sub(self.rows.start).min(self.rows.len())
    }

    /// What row `row` of the block sees of each panel.
    pub(super) fn seen(&self, row: usize) -> &[Seen] {
        &self.seen[row * self.panels()..][..self.panels()]
    }

    /// `a` times the keys: `a` is `(rows, head_dim)`, and so are the keys that `keys` has turned.
    pub(super) fn scores(&self, a: Strided<'_>, keys: &PackedOperand, scores: &mut Accumulator) {
        scores.shape(self.rows.len(), self.panels() * KEYS);
        for (first, panels) in self.runs() {
            keys.multiply(a, panels.clone(), |panel| self.first_row(panel), (scores, first));
        }
    }

    /// `sums += weights * b`, to the rows of `sums` from `first` on; `b` has the sequence's keys as depth.
    pub(super) fn gather(&self, weights: &Accumulator, b: &PackedOperand, (sums, first): (&mut Accumulator, usize)) {
        for (panel, panels) in self.runs() {
            let keys = panels.start * KEYS..self.keys.min(panels.end * KEYS);
            let seen = |rows: &Range<usize>| keys.end.min(self.rows.start + rows.end).saturating_sub(keys.start);
            b.multiply_add((weights, panel), keys.clone(), seen, (sums, first));
        }
    }

    /// `sums += (weights^T b)^T`: to each key, a column, from the block's rows; `b` is `(rows, head_dim)`.
    pub(super) fn scatter(&self, weights: &Accumulator, b: Strided<'_>, sums: &mut Accumulator) {
        for (first, panels) in self.runs() {
            sums.add_product(panels.clone(), b.transposed(), (weights, first), |panel| self.first_row(panel));
        }
    }
}
