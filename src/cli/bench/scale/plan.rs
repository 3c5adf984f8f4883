//! Which points `bench scale` measures: sizes that double, up to a limit.

use super::series::Series;
use super::workload::Workload;

/// N while M grows, and M while N grows.
const TREE: (usize, usize) = (4, 5);
/// The largest N and M.
pub(super) const TREE_MAX: usize = 16;
/// Sequences at once while threads or models grow.
const SEQUENCES: usize = 32;
/// Tokens of each prompt while sequences, threads or models grow.
const CONTEXT: usize = 64;

/// The sizes of all series.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// Few points and short texts.
    pub(super) quick: bool,
    pub(super) sequences_max: usize,
    pub(super) context_max: usize,
    /// The longest context of the first model.
    pub(super) model_context: usize,
    pub(super) threads_max: usize,
}

/// A point to be measured.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PlannedPoint {
    pub(super) size: f64,
    pub(super) workload: Workload,
    /// As many as rayon has by itself, if none is given.
    pub(super) threads: Option<usize>,
    /// Its index in the list of models.
    pub(super) model: usize,
}

impl Sizes {
    /// The points of `series`; `parameters` are those of each model.
    pub(super) fn points(&self, series: Series, parameters: &[usize]) -> Vec<PlannedPoint> {
        let max_tokens = if self.quick { 8 } else { 64 };
        let point = |size: usize, workload| PlannedPoint { size: size as f64, workload, threads: None, model: 0 };
        let decode = |sequences| Workload::Decode { sequences, context: self.prompt(max_tokens), max_tokens };
        let tree_max = if self.quick { 4 } else { TREE_MAX };
        match series {
            Series::Sequences => {
                self.doubling(1, self.sequences_max).map(|sequences| point(sequences, decode(sequences))).collect()
            }
            Series::ContextPrefill => {
                self.contexts(1).map(|context| point(context, Workload::Prefill { context })).collect()
            }
            Series::ContextDecode => self
                .contexts(max_tokens)
                .map(|context| point(context, Workload::Decode { sequences: 1, context, max_tokens }))
                .collect(),
            Series::TreeN => {
                self.doubling(2, tree_max).map(|n| point(n, Workload::Episode { n, m: TREE.1, max_tokens })).collect()
            }
            Series::TreeM => {
                self.doubling(1, tree_max).map(|m| point(m, Workload::Episode { n: TREE.0, m, max_tokens })).collect()
            }
            Series::Threads => self
                .doubling(1, self.threads_max)
                .map(|threads| PlannedPoint { threads: Some(threads), ..point(threads, decode(SEQUENCES)) })
                .collect(),
            Series::Model => (0..)
                .zip(parameters)
                .map(|(model, parameters)| PlannedPoint { model, ..point(*parameters, decode(SEQUENCES)) })
                .collect(),
        }
    }

    /// The prompt of a sequence that generates `max_tokens`, within the model's context.
    fn prompt(&self, max_tokens: usize) -> usize {
        CONTEXT.min(self.model_context.saturating_sub(max_tokens)).max(1)
    }

    /// Contexts that leave room for `max_tokens`. The last may be shorter for it.
    fn contexts(&self, max_tokens: usize) -> impl Iterator<Item = usize> {
        let first = 128.min(self.context_max.div_ceil(4));
        let room = self.model_context.saturating_sub(max_tokens).max(1);
        let mut contexts: Vec<usize> =
            self.doubling(first, self.context_max).map(|context| context.min(room)).collect();
        contexts.dedup();
        contexts.into_iter()
    }

    /// `first` and its doubles up to `last`, which is the end in any case. If quick, only both ends and one between them.
    fn doubling(&self, first: usize, last: usize) -> impl Iterator<Item = usize> {
        let mut sizes: Vec<usize> =
            std::iter::successors(Some(first), |size| size.checked_mul(2)).take_while(|size| *size < last).collect();
        sizes.push(last);
        if self.quick && sizes.len() > 3 {
            sizes = vec![sizes[0], sizes[sizes.len() / 2], last];
        }
        sizes.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: Sizes =
        Sizes { quick: false, sequences_max: 24, context_max: 1024, model_context: 1024, threads_max: 6 };

    fn sizes(of: Sizes, series: Series) -> Vec<f64> {
        of.points(series, &[135, 360]).iter().map(|point| point.size).collect()
    }

    #[test]
    fn sizes_double_and_end_at_their_limit() {
        assert_eq!(sizes(SIZES, Series::Sequences), [1.0, 2.0, 4.0, 8.0, 16.0, 24.0]);
        assert_eq!(sizes(SIZES, Series::ContextPrefill), [128.0, 256.0, 512.0, 1023.0]);
        assert_eq!(sizes(SIZES, Series::ContextDecode), [128.0, 256.0, 512.0, 960.0]);
        assert_eq!(sizes(SIZES, Series::TreeN), [2.0, 4.0, 8.0, 16.0]);
        assert_eq!(sizes(SIZES, Series::Threads), [1.0, 2.0, 4.0, 6.0]);
        assert_eq!(sizes(SIZES, Series::Model), [135.0, 360.0]);
        let one = Sizes { sequences_max: 1, context_max: 1, threads_max: 1, ..SIZES };
        assert_eq!((sizes(one, Series::Sequences), sizes(one, Series::ContextPrefill)), (vec![1.0], vec![1.0]));
    }

    #[test]
    fn a_quick_run_has_few_points_and_no_text_leaves_the_models_context() {
        let quick = Sizes { quick: true, sequences_max: 16, context_max: 64, model_context: 64, threads_max: 64 };
        for series in Series::ALL {
            let points = quick.points(series, &[135]);
            assert!((1..=3).contains(&points.len()), "{points:?}");
            for point in points {
                let tokens = match point.workload {
                    Workload::Decode { context, max_tokens, .. } => context + max_tokens,
                    Workload::Prefill { context } => context + 1,
                    Workload::Episode { .. } => 0,
                };
                assert!(tokens <= 64, "{point:?}");
            }
        }
    }

    #[test]
    fn threads_and_models_are_those_of_the_point() {
        let threads: Vec<_> = SIZES.points(Series::Threads, &[1]).iter().map(|point| point.threads).collect();
        assert_eq!(threads, [Some(1), Some(2), Some(4), Some(6)]);
        let models: Vec<_> = SIZES.points(Series::Model, &[135, 360]).iter().map(|point| point.model).collect();
        assert_eq!(models, [0, 1]);
    }
}
