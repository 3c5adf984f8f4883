//! What curves are drawn from: the figures of all looks so far.

use super::look::{Look, UtilitySum};
use std::collections::{BTreeMap, VecDeque};

/// Points that a curve keeps.
const POINTS_MAX: usize = 512;
/// Seconds over which the speed of a role is a mean: texts are counted when they end.
const RATE_SECONDS: f64 = 15.0;
/// Critiques whose mean is one point of a task's curve.
const CRITIQUES_OF_A_POINT: f64 = 8.0;

/// A curve, the oldest point first.
#[derive(Clone, Debug, Default)]
pub(super) struct Curve(VecDeque<f64>);

impl Curve {
    pub(super) fn push(&mut self, point: f64) {
        if !point.is_finite() {
            return;
        }
        if self.0.len() == POINTS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(point);
    }

    pub(super) fn last(&self) -> Option<f64> {
        self.0.back().copied()
    }

    /// The newest `width` points as heights from 0 to `top`, and the least and the largest of them. Points that differ by
    /// less than `least_span` are drawn as almost level: noise should not fill the screen.
    pub(super) fn heights(&self, width: usize, top: u64, least_span: f64) -> (Vec<u64>, Option<(f64, f64)>) {
        let points = self.0.range(self.0.len().saturating_sub(width)..);
        let bounds = points.clone().fold(None, |bounds: Option<(f64, f64)>, point| match bounds {
            None => Some((*point, *point)),
            Some((least, most)) => Some((least.min(*point), most.max(*point))),
        });
        let Some((least, most)) = bounds else { return (Vec::new(), None) };
        let span = (most - least).max(least_span);
        let floor = least - (span - (most - least)) / 2.0;
        let height = |point: &f64| (((point - floor) / span) * top as f64).round() as u64;
        // A point at the floor is still seen.
        (points.map(|point| height(point).max(top / 8)).collect(), bounds)
    }
}

/// The curves of one node.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    /// By task.
    pub(super) utilities: BTreeMap<String, Curve>,
    pub(super) loss: Curve,
    pub(super) tokens_per_second: Curve,
    /// Tokens a second lately, by role.
    pub(super) role_rates: BTreeMap<String, f64>,
    step: Option<u64>,
    /// Tokens by role and the seconds since the look before, of the looks within [`RATE_SECONDS`], the oldest first.
    written: VecDeque<(f64, BTreeMap<String, f64>)>,
    /// What the last point of each task was made from.
    counted: BTreeMap<String, UtilitySum>,
}

impl History {
    /// Adds what `look` shows, `seconds` after the look before.
    pub(super) fn add(&mut self, look: &Look, seconds: f64) {
        if self.step != Some(look.step) {
            self.step = Some(look.step);
            self.loss.push(look.loss.unwrap_or(f64::NAN));
        }
        self.tokens_per_second.push(look.tokens_per_second);
        self.add_tokens(&look.tokens, seconds);
        for (task, sum) in &look.utilities {
            let before = self.counted.entry(task.clone()).or_default();
            if sum.count < before.count {
                *before = UtilitySum::default();
            }
            let new = UtilitySum { sum: sum.sum - before.sum, count: sum.count - before.count };
            if new.count >= CRITIQUES_OF_A_POINT {
                self.utilities.entry(task.clone()).or_default().push(new.sum / new.count);
                *before = *sum;
            }
        }
    }

    fn add_tokens(&mut self, tokens: &BTreeMap<String, f64>, seconds: f64) {
        let has_fewer = |(_, before): &(f64, BTreeMap<String, f64>)| {
            tokens.iter().any(|(role, tokens)| before.get(role).is_some_and(|before| tokens < before))
        };
        // A node that was started anew counts from zero again.
        if self.written.back().is_some_and(has_fewer) {
            self.written.clear();
        }
        self.written.push_back((seconds, tokens.clone()));
        let lasted = |written: &VecDeque<(f64, _)>| written.iter().skip(1).map(|(seconds, _)| seconds).sum::<f64>();
        while self.written.len() > 2 && lasted(&self.written) > RATE_SECONDS {
            self.written.pop_front();
        }
        let (seconds, oldest) = (lasted(&self.written).max(1e-3), &self.written[0].1);
        let rate =
            |(role, tokens): (&String, &f64)| (role.clone(), (tokens - oldest.get(role).unwrap_or(tokens)) / seconds);
        self.role_rates = tokens.iter().map(rate).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(count: f64, sum: f64, tokens: f64) -> Look {
        Look {
            utilities: BTreeMap::from([("t".to_owned(), UtilitySum { sum, count })]),
            tokens: BTreeMap::from([("critic".to_owned(), tokens)]),
            ..Look::default()
        }
    }

    #[test]
    fn a_point_is_the_mean_of_the_critiques_since_the_last_one_and_a_new_process_counts_anew() {
        let mut history = History::default();
        let points = |history: &History| history.utilities.get("t").map_or(0, |curve| curve.0.len());
        history.add(&look(4.0, 4.0, 10.0), 1.0);
        assert_eq!(points(&history), 0, "too few critiques");
        history.add(&look(10.0, 5.0, 30.0), 2.0);
        assert_eq!((points(&history), history.utilities["t"].last()), (1, Some(0.5)));
        assert!((history.role_rates["critic"] - 10.0).abs() < 1e-9);
        history.add(&look(8.0, 8.0, 5.0), 1.0);
        assert_eq!((history.utilities["t"].last(), history.role_rates["critic"]), (Some(1.0), 0.0));
        for tokens in 1..40 {
            history.add(&look(8.0, 8.0, 5.0 + 60.0 * f64::from(tokens)), 2.0);
        }
        assert_eq!((history.role_rates["critic"], history.written.len()), (30.0, 8), "lately");
    }

    #[test]
    fn heights_span_what_is_seen_and_level_curves_stay_level() {
        let mut curve = Curve::default();
        [0.0, 100.0, 0.2, 0.4, f64::NAN].into_iter().for_each(|point| curve.push(point));
        assert_eq!(curve.heights(2, 80, 0.1), (vec![10, 80], Some((0.2, 0.4))));
        let mut level = Curve::default();
        [0.5, 0.501].into_iter().for_each(|point| level.push(point));
        assert_eq!(level.heights(9, 80, 0.1).0, [40, 40]);
        assert_eq!(Curve::default().heights(9, 80, 0.1), (vec![], None));
    }
}
