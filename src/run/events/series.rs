//! How a node fared in the last hour: a few numbers every few seconds, for charts.
//!
//! Bounded: the oldest sample leaves. Knows no metric: Prometheus has the rest.

use serde::Serialize;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// The time between two samples, in milliseconds.
const EVERY_MILLISECONDS: u64 = 5000;
/// Samples that are kept: an hour.
const KEPT: usize = 720;

/// A node at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Sample {
    /// When, in milliseconds since 1970.
    pub time: u64,
    /// Learner steps.
    pub step: u64,
    /// Loss of the last step.
    pub loss: Option<f32>,
    /// Moving mean of critique utility.
    pub utility_mean: Option<f32>,
    /// Tokens sampled per second.
    pub tokens_per_second: f64,
    /// Groups in the buffer.
    pub groups_held: usize,
    /// Episodes under way.
    pub episodes_in_flight: usize,
}

/// The samples.
#[derive(Debug, Default)]
pub struct Series(Mutex<VecDeque<Sample>>);

impl Series {
    /// Takes a sample, unless the last one is too new.
    pub(super) fn observe(&self, sample: Sample) {
        let mut samples = self.lock();
        // A clock that was set back begins anew.
        let is_soon = |last: &Sample| (last.time..last.time + EVERY_MILLISECONDS).contains(&sample.time);
        if samples.back().is_some_and(is_soon) {
            return;
        }
        samples.push_back(sample);
        if samples.len() > KEPT {
            samples.pop_front();
        }
    }

    /// The samples after the time `after`, the oldest first.
    pub fn since(&self, after: u64) -> Vec<Sample> {
        self.lock().iter().filter(|sample| sample.time > after).cloned().collect()
    }

    /// Whole whatever panicked: a sample is added in one step.
    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Sample>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_hour_is_kept_a_sample_every_five_seconds() {
        let series = Series::default();
        for second in 0..7200 {
            series.observe(Sample { time: 1000 * second, step: second, ..Sample::default() });
        }
        let all = series.since(0);
        assert_eq!((all.len(), all[0].time, all[KEPT - 1].time), (KEPT, 3_600_000, 7_195_000));
        assert!(all.windows(2).all(|pair| pair[1].time - pair[0].time == EVERY_MILLISECONDS));
        assert_eq!((all[KEPT - 1].step, series.since(7_190_000).len()), (7195, 1));
        series.observe(Sample { time: 50, ..Sample::default() });
        assert_eq!(series.since(0).len(), KEPT, "a clock that was set back");
    }
}
