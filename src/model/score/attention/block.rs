//! Queries of one prefix or one text, and their scores over the keys that at least one of them sees.

use crate::model::kernel::{Operand, Strided, Total};
use crate::model::score::packed::Segments;
use std::ops::Range;

/// Keys that are computed together: what a panel holds.
const KEYS: usize = 16;

/// Neighbouring queries of a sequence. Their scores are rows of both runs, whole panels each.
pub(super) struct Block<'a> {
    /// The queries' rows of the sequence.
    pub(super) rows: Range<usize>,
    /// Keys of the prefix and of the text, each from a whole panel on.
    runs: [Range<usize>; 2],
    segments: &'a Segments,
    window: usize,
}

impl<'a> Block<'a> {
    /// The queries `queries` of a sequence of `rows` rows, of which each sees `window` tokens.
    pub(super) fn new(queries: Range<usize>, segments: &'a Segments, window: usize, rows: usize) -> Self {
        // The first query sees the oldest key, the last one the newest.
        let [oldest, newest] = [queries.start, queries.end - 1].map(|row| segments.visible(row, window));
        let runs = [0, 1].map(|run| {
            let end = newest[run].end.next_multiple_of(KEYS).min(rows);
            (oldest[run].start / KEYS * KEYS).min(end)..end
        });
        Self { rows: queries, runs, segments, window }
    }

    /// Scores of one row.
    pub(super) fn width(&self) -> usize {
        self.offset(1) + self.runs[1].len().next_multiple_of(KEYS)
    }

    /// Where a row's scores of run `run` begin.
    fn offset(&self, run: usize) -> usize {
        if run == 0 { 0 } else { self.runs[0].len().next_multiple_of(KEYS) }
    }

    /// Both runs that have keys.
    fn runs(&self) -> impl Iterator<Item = (usize, &Range<usize>)> {
        self.runs.iter().enumerate().filter(|(_, keys)| !keys.is_empty())
    }

    /// Where the scores of the keys lie that the sequence's row `row` sees.
    fn seen(&self, row: usize) -> [Range<usize>; 2] {
        let visible = self.segments.visible(row, self.window);
        [0, 1].map(|run| {
            let keys = &visible[run];
            let first = self.offset(run) + keys.start.saturating_sub(self.runs[run].start);
            first..first + keys.len()
        })
    }

    /// `a` times the keys: `a` is `(rows, head_dim)`, and so are the keys that `keys` has turned.
    pub(super) fn scores(&self, a: Strided<'_>, keys: &Operand, scores: &mut Vec<f32>) {
        let width = self.width();
        scores.resize(self.rows.len() * width, 0.0);
        for (run, range) in self.runs() {
            let offset = self.offset(run);
            // No row sees a key behind it.
            let from = |key: usize| key.saturating_sub(self.rows.start);
            keys.multiply(a, self.rows.len(), range.clone(), from, |row, column, sums| {
                scores[row * width + offset + column - range.start..][..KEYS].copy_from_slice(sums);
            });
        }
    }

    /// Applies `change` to each row's scores, those that it sees in two runs, and puts 0 everywhere else.
    pub(super) fn where_seen(&self, scores: &mut [f32], mut change: impl FnMut(usize, [Range<usize>; 2], &mut [f32])) {
        for (index, scores) in scores.chunks_exact_mut(self.width()).enumerate() {
            let [prefix, own] = self.seen(self.rows.start + index);
            scores[..prefix.start].fill(0.0);
            scores[prefix.end..own.start].fill(0.0);
            scores[own.end..].fill(0.0);
            change(index, [prefix, own], scores);
        }
    }

    /// `sums += weights * b`, to the rows of `sums` from `first` on; `b` has the sequence's keys as depth.
    pub(super) fn gather(&self, weights: &[f32], b: &Operand, sums: &mut Total, first: usize) {
        for (run, keys) in self.runs() {
            let weights = Strided::rows(&weights[self.offset(run)..], self.width());
            let seen = |rows: &Range<usize>| 0..keys.end.min(self.rows.start + rows.end).saturating_sub(keys.start);
            b.multiply_add(weights, keys.clone(), seen, (sums, first..first + self.rows.len()));
        }
    }

    /// `sums += weights^T * b`: to each key, from the block's rows, which `b` has as depth.
    pub(super) fn scatter(&self, weights: &[f32], b: &Operand, sums: &mut Total) {
        for (run, keys) in self.runs() {
            let (weights, rows) = (Strided::columns(&weights[self.offset(run)..], self.width()), self.rows.len());
            let seen = |of: &Range<usize>| (keys.start + of.start).saturating_sub(self.rows.start).min(rows)..rows;
            b.multiply_add(weights, 0..rows, seen, (sums, keys.clone()));
        }
    }
}
