//! A step over several weight sets: the base's rows in one pass, those of each critic with weights of its own in another.
//!
//! All passes share the paged cache. Blocks are keyed by the installation of weights that computed them, so that no pass
//! reads keys of another set.

use super::{Batch, Panels, Stack};
use std::sync::Arc;

/// The spans of a step that run over one weight set.
pub(super) struct Set {
    /// Its weights; none: the base's.
    pub(super) weights: Option<Arc<Stack<Panels>>>,
    /// Its spans, as a step of their own.
    pub(super) batch: Batch,
    /// Which rows of the step's logits are its own, in order.
    pub(super) rows: Vec<usize>,
}

impl Set {
    /// Splits `batch`; empty where all of it runs over the base's weights.
    pub(super) fn split(batch: &Batch) -> Vec<Self> {
        let mut sets: Vec<Self> = vec![];
        if batch.adapters.iter().all(|critic| critic.weights().is_none()) {
            return sets;
        }
        let mut row = 0;
        for span in &batch.spans {
            let critic = span.adapter.map(|index| &batch.adapters[index]);
            let weights = critic.and_then(|critic| critic.weights());
            let is_same = |set: &Self| match (&set.weights, weights) {
                (None, None) => true,
                (Some(one), Some(other)) => Arc::ptr_eq(one, other),
                _ => false,
            };
            let place = sets.iter().position(is_same).unwrap_or_else(|| {
                sets.push(Self { weights: weights.cloned(), batch: Batch::default(), rows: vec![] });
                sets.len() - 1
            });
            let tokens = &batch.tokens[span.start..span.start + span.len];
            let beside = critic.filter(|_| weights.is_none());
            sets[place].batch.push(tokens, span.cached, batch.table(span), beside, span.sample);
            if span.sample {
                sets[place].rows.push(row);
                row += 1;
            }
        }
        sets
    }
}
