//! The rows of a batch: its packed sequences, one after another.

use super::attention::SequenceRows;
use crate::transformer::score::{ScoreBatch, Segments};

/// The tokens of a batch, a row each, and the ids that they predict.
pub(super) struct BatchRows {
    /// The packed sequences.
    pub(super) sequences: Vec<SequenceRows>,
    /// Position of each row in its sequence, `(rows)`.
    pub(super) positions: Vec<usize>,
    /// Ids, `(rows)`.
    pub(super) ids: Vec<u32>,
    /// Predicted ids, text after text, `(targets)`.
    pub(super) targets: Vec<u32>,
    /// The row that predicts each of them, `(targets)`.
    pub(super) predicting: Vec<usize>,
    /// Index of each sequence's first target, `(sequences)`.
    pub(super) first_targets: Vec<usize>,
}

impl BatchRows {
    pub(super) fn new(batch: &ScoreBatch<'_>) -> Self {
        let (sequences, positions, ids, targets) = (vec![], vec![], vec![], vec![]);
        let mut rows = Self { sequences, positions, ids, targets, predicting: vec![], first_targets: vec![] };
        for packed in batch.packed {
            let (first, segments) = (rows.ids.len(), Segments::of(packed));
            rows.positions.extend((0..packed.tokens()).map(|row| segments.position(row)));
            rows.first_targets.push(rows.predicting.len());
            rows.predicting.extend(packed.predicting_rows().into_iter().map(|row| first + row as usize));
            rows.ids.extend(packed.ids());
            rows.targets.extend(packed.texts.iter().copied().flatten());
            rows.sequences.push(SequenceRows { segments, rows: first..first + packed.tokens() });
        }
        rows
    }
}
