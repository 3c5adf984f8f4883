//! How beta and the learning rate change over a run.
//!
//! Loss and gradient are in units of the utilities ([`super::rco`]), so neither learning rate nor clipping depends on
//! beta.

use serde::{Deserialize, Serialize};

/// The shape of a schedule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Always the first value. For beta, RCO and DRO use it, and only it has a fixed optimum.
    #[default]
    Constant,
    /// A straight line, as TBA anneals beta (arXiv 2503.18929): start close to the reference, end closer to the
    /// utilities. For a falling learning rate, it reduces the noise of the last batches.
    Linear,
    /// Half a cosine: slow at both ends.
    Cosine,
}

/// A value that changes over the steps of a run. If it is beta, the optimum `pi_ref exp(CU / beta) / Z` moves with it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Annealed {
    /// The shape.
    pub schedule: Schedule,
    /// At the first step.
    pub first: f64,
    /// After `steps` steps and from then on; unused by a constant schedule.
    pub last: f64,
    /// Steps from `first` to `last`.
    pub steps: u64,
}

impl Annealed {
    /// At `step`; the first step is 1.
    pub fn at(&self, step: u64) -> f64 {
        let Self { schedule, first, last, steps } = *self;
        let progress = (step.saturating_sub(1) as f64 / steps.max(1) as f64).min(1.0);
        match schedule {
            Schedule::Constant => first,
            Schedule::Linear => first + (last - first) * progress,
            Schedule::Cosine => last + (first - last) * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_begins_at_its_first_value_and_rests_at_its_last() {
        for schedule in [Schedule::Linear, Schedule::Cosine] {
            let beta = Annealed { schedule, first: 0.4, last: 0.1, steps: 10 };
            assert!((beta.at(1) - 0.4).abs() < 1e-12 && (beta.at(6) - 0.25).abs() < 1e-12, "{schedule:?}");
            assert!((beta.at(11) - 0.1).abs() < 1e-12 && beta.at(11) == beta.at(1000), "{schedule:?}");
            assert!((1..11).all(|step| beta.at(step) > beta.at(step + 1)), "{schedule:?}");
        }
        let linear = Annealed { schedule: Schedule::Linear, first: 0.4, last: 0.1, steps: 10 };
        let cosine = Annealed { schedule: Schedule::Cosine, ..linear };
        assert!(cosine.at(2) > linear.at(2) && cosine.at(10) < linear.at(10));
        let constant = Annealed { schedule: Schedule::Constant, ..linear };
        assert_eq!((constant.at(1), constant.at(99)), (0.4, 0.4));
    }
}
