//! What the model thought of given tokens: their log-probabilities and the likeliest tokens in their place.
//!
//! Knows rows of logits; no request. The distribution is the model's own: softmax over the whole row at temperature 1. A
//! row's report depends only on that row.

use super::exp;
use super::request::TokenReport;
use crate::kernels::thread_pool;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A token to report.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// The row of logits that predicts it.
    pub(crate) row: usize,
    pub(crate) id: u32,
    /// The number of likeliest tokens.
    pub(crate) top: usize,
}

/// A logit and its id, ordered by likelihood: the lower of two ids with equal logits is the likelier.
#[derive(Clone, Copy, PartialEq)]
struct Ranked(f32, u32);

impl Eq for Ranked {}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0).then(other.1.cmp(&self.1))
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// Reports `wanted` by `logits`, rows of `vocab`, in order; none for a row that is no distribution.
pub(crate) fn report_all(logits: &[f32], vocab: usize, wanted: &[Wanted]) -> Vec<Option<TokenReport>> {
    let of_one = |one: &Wanted| report(&logits[one.row * vocab..(one.row + 1) * vocab], one.id, one.top);
    if wanted.len() < 2 {
        return wanted.iter().map(of_one).collect();
    }
    let mut reports: Vec<_> = wanted.iter().map(|one| (one, None)).collect();
    thread_pool::each_mut(&mut reports, |_, (one, report)| *report = of_one(one));
    reports.into_iter().map(|(_, report)| report).collect()
}

/// Reports `id` and the `top` likeliest tokens by one row.
fn report(row: &[f32], id: u32, top: usize) -> Option<TokenReport> {
    let max = exp::max(row);
    let mut sums = Vec::with_capacity(row.len().div_ceil(exp::CHUNK));
    exp::sums(row, max, 1.0, &mut sums);
    let total: f64 = sums.iter().sum();
    if !total.is_finite() || total <= 0.0 {
        return None;
    }
    let log_prob = |logit: f32| (f64::from(logit - max) - total.ln()) as f32;
    let top = likeliest(row, top).into_iter().map(|Ranked(logit, id)| (id, log_prob(logit))).collect();
    Some(TokenReport { id, log_prob: Some(log_prob(row[id as usize])), top })
}

/// The `count` likeliest of `row`, the likeliest first.
fn likeliest(row: &[f32], count: usize) -> Vec<Ranked> {
    let mut kept: BinaryHeap<Reverse<Ranked>> = BinaryHeap::with_capacity((count + 1).min(row.len()));
    for (&logit, id) in row.iter().zip(0..) {
        // Of equals, those that came first stay.
        if kept.len() < count {
            kept.push(Reverse(Ranked(logit, id)));
        } else if let Some(mut least) = kept.peek_mut().filter(|least| logit > least.0.0) {
            *least = Reverse(Ranked(logit, id));
        }
    }
    kept.into_sorted_vec().into_iter().map(|Reverse(ranked)| ranked).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_report_is_what_sorting_the_whole_row_gives(
            row in prop::collection::vec(prop_oneof![-9.0f32..9.0, Just(1.5), Just(f32::NEG_INFINITY)], 1..600),
            at in any::<prop::sample::Index>(), top in 0usize..12,
        ) {
            prop_assume!(row.iter().any(|logit| logit.is_finite()));
            let id = at.index(row.len());
            let total: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
            let log_prob = |id: usize| f64::from(row[id]) - total.ln();
            let mut order: Vec<usize> = (0..row.len()).collect();
            order.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
            let got = report(&row, id as u32, top).unwrap();
            let near = |got: f32, real: f64| got == real as f32 || (f64::from(got) - real).abs() < 1e-5;
            prop_assert!(near(got.log_prob.unwrap(), log_prob(id)));
            let ids: Vec<usize> = got.top.iter().map(|(id, _)| *id as usize).collect();
            prop_assert_eq!(&ids[..], &order[..top.min(row.len())]);
            prop_assert!(got.top.iter().all(|&(id, got)| near(got, log_prob(id as usize))));
        }
    }

    #[test]
    fn a_row_that_is_no_distribution_has_no_report() {
        let rows = [f32::NAN, 0.0, 1.0, f32::INFINITY, f32::NEG_INFINITY, f32::NEG_INFINITY, 0.0, 0.0];
        let wanted = [0, 1, 2, 3].map(|row| Wanted { row, id: 1, top: 1 });
        let reports = report_all(&rows, 2, &wanted);
        assert_eq!(reports.iter().map(Option::is_some).collect::<Vec<_>>(), [false, false, false, true]);
        assert_eq!(reports[3].as_ref().unwrap().top, [(0, -std::f32::consts::LN_2)]);
    }
}
