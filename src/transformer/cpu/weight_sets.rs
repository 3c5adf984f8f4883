//! A step over several weight sets: one pass for the base's rows, one for those of each critic with weights of its own.
//!
//! All passes share the paged cache. Blocks are keyed by the installed weights that computed them, so that no pass reads
//! another set's keys.

use super::critic::CpuCritic;
use super::panels::Panels;
use crate::transformer::decode::Batch;
use crate::transformer::error::Result;
use crate::transformer::stack::Stack;
use std::sync::Arc;

/// The spans of a step that run over one weight set.
pub(super) struct WeightSet {
    /// The weights; `None` for the base's.
    pub(super) weights: Option<Arc<Stack<Panels>>>,
    /// Its spans, as a step of their own.
    pub(super) batch: Batch,
    /// The rows of the step's logits that it computes, in order.
    pub(super) rows: Vec<usize>,
}

impl WeightSet {
    /// Splits `batch`; empty where all of it runs over the base's weights.
    pub(super) fn split(batch: &Batch) -> Result<Vec<Self>> {
        let mut sets: Vec<Self> = vec![];
        if batch.adapters.iter().all(|critic| !critic.replaces_base()) {
            return Ok(sets);
        }
        let mut row = 0;
        for span in &batch.spans {
            let critic = span.adapter.map(|index| &batch.adapters[index]);
            let weights = match critic {
                Some(critic) => critic.layout::<CpuCritic>()?.weights(),
                None => None,
            };
            let is_same = |set: &Self| match (&set.weights, weights) {
                (None, None) => true,
                (Some(one), Some(other)) => Arc::ptr_eq(one, other),
                _ => false,
            };
            let index = sets.iter().position(is_same).unwrap_or_else(|| {
                sets.push(Self { weights: weights.cloned(), batch: Batch::default(), rows: vec![] });
                sets.len() - 1
            });
            let tokens = &batch.tokens[span.start..span.start + span.len];
            let adapter = critic.filter(|_| weights.is_none());
            sets[index].batch.push(tokens, span.cached, batch.table(span), adapter, span.logit_rows);
            sets[index].rows.extend(row..row + span.logit_rows);
            row += span.logit_rows;
        }
        Ok(sets)
    }
}
