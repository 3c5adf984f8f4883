//! The plan of a step, and how rollouts and HTTP share its tokens and the sequences.
//!
//! Knows no block.

use super::request::RequestId;
use super::sequence::Sequence;
use crate::types::Origin;
use std::cmp::Ordering;

/// The share of requests over HTTP until another is set.
pub(crate) const HTTP_SHARE: f64 = 0.5;

/// Rows of logits that a step computes only to report them: they are in memory at once.
const REPORTED_ROWS_MAX: usize = 256;

/// What a step does besides computing the planned tokens of its sequences.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Tokens left in the budget.
    pub(crate) budget: usize,
    /// Whether both origins have work.
    pub(crate) shared: bool,
    /// Whether requests over HTTP sit this step out.
    pub(crate) without_http: bool,
    /// Those tokens that each origin is sure of, by origin.
    pub(crate) reserved: [usize; 2],
    /// Rows of logits left to report.
    reported_rows: usize,
    /// Tokens that are planned, by origin.
    pub(crate) planned: [usize; 2],
    /// Requests admitted for the first time, once for each of their sequences.
    pub(crate) admitted: Vec<RequestId>,
    /// Blocks to copy before the step, in this order.
    pub(crate) copies: Vec<(u32, u32)>,
    /// Sequences preempted.
    pub(crate) preemptions: usize,
    /// Tokens of admitted sequences that were found in the cache.
    pub(crate) cached_tokens: usize,
    /// Cached blocks evicted to make room.
    pub(crate) evicted_blocks: usize,
}

impl Plan {
    /// A plan of no token yet.
    pub(crate) fn new(budget: usize, reserved: [usize; 2]) -> Self {
        let shared = reserved != [0; 2];
        Self { budget, shared, reserved, reported_rows: REPORTED_ROWS_MAX, ..Self::default() }
    }

    /// Tokens that `sequence` may take beyond those that are planned.
    pub(crate) fn tokens(&self, sequence: &Sequence) -> usize {
        if self.without_http && sequence.origin == Origin::Http {
            return 0;
        }
        let allowed = self.budget.saturating_sub(self.reserved[sequence.origin.other() as usize]);
        let rows = if sequence.unreported.is_some() { self.reported_rows } else { usize::MAX };
        (sequence.pending() - sequence.planned).min(allowed).min(rows)
    }

    /// Whether rows of logits are computed only to report them.
    pub(crate) fn reports(&self) -> bool {
        self.reported_rows < REPORTED_ROWS_MAX
    }

    /// Takes `tokens` for `sequence`.
    pub(crate) fn take(&mut self, sequence: &Sequence, tokens: usize) {
        self.budget -= tokens;
        let reserved = &mut self.reserved[sequence.origin as usize];
        *reserved = reserved.saturating_sub(tokens);
        if sequence.unreported.is_some() {
            self.reported_rows -= tokens;
        }
    }
}

/// The share of requests over HTTP, in `[0, 1]`, where rollouts have work too.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HttpShare(f64);

impl HttpShare {
    /// `share`, or the nearest number in `[0, 1]`.
    pub(crate) fn new(share: f64) -> Self {
        Self(share.clamp(0.0, 1.0))
    }

    /// What it is of `whole`.
    pub(crate) fn of(self, whole: f64) -> f64 {
        self.0 * whole
    }

    /// The tokens of a step of `budget` that each origin is sure of: its share, at least one token and no more than it
    /// `wants`. None if only one wants any.
    pub(crate) fn reserved(self, budget: usize, wants: [usize; 2]) -> [usize; 2] {
        if budget < 2 || wants.contains(&0) {
            return [0; 2];
        }
        let http = ((budget as f64 * self.0).round() as usize).clamp(1, budget - 1);
        [wants[Origin::Rollout as usize].min(budget - http), wants[Origin::Http as usize].min(http)]
    }

    /// The origin that has fewer `running` continuations for its share; none where both have the same.
    pub(crate) fn behind(self, running: [usize; 2]) -> Option<Origin> {
        let [rollout, http] = running.map(|count| count as f64);
        match (http * (1.0 - self.0)).total_cmp(&(rollout * self.0)) {
            Ordering::Less => Some(Origin::Http),
            Ordering::Equal => None,
            Ordering::Greater => Some(Origin::Rollout),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_origin_is_sure_of_its_share_and_of_a_token_and_of_nothing_where_it_is_alone() {
        let reserved = |share, budget, wants| HttpShare::new(share).reserved(budget, wants);
        assert_eq!(reserved(0.25, 64, [1000, 1000]), [48, 16]);
        assert_eq!(reserved(0.25, 64, [1000, 3]), [48, 3]);
        assert_eq!(reserved(1.0, 64, [1000, 1000]), [1, 63]);
        assert_eq!(reserved(0.001, 64, [1000, 1000]), [63, 1]);
        assert_eq!(reserved(0.5, 1, [1000, 1000]), [0, 0], "one token cannot be shared");
        for wants in [[0, 9], [9, 0]] {
            assert_eq!(reserved(0.5, 64, wants), [0, 0]);
        }
    }

    #[test]
    fn the_origin_below_its_share_goes_first() {
        let share = HttpShare::new(0.25);
        assert_eq!(share.behind([48, 15]), Some(Origin::Http));
        assert_eq!(share.behind([48, 16]), None);
        assert_eq!(share.behind([48, 17]), Some(Origin::Rollout));
        assert_eq!(HttpShare::new(1.0).behind([1, 1000]), Some(Origin::Http));
    }
}
