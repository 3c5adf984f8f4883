//! Division of the device's time between generation and learning.

use std::time::Duration;

/// Divides the device's time between generation and learning.
pub(super) struct TimeShare {
    learner: f64,
    learned: f64,
    wrote: f64,
}

impl TimeShare {
    /// Seconds of work after which earlier time counts half.
    const MEMORY_SECONDS: f64 = 20.0;

    pub(super) fn new(learner: f64) -> Self {
        Self { learner, learned: 0.0, wrote: 0.0 }
    }

    /// Whether the learner has had no more than its share of the time.
    pub(super) fn is_learner_due(&self) -> bool {
        self.learned <= self.learner * (self.learned + self.wrote)
    }

    pub(super) fn learned(&mut self, duration: Duration) {
        self.learned += duration.as_secs_f64();
        self.decay();
    }

    pub(super) fn wrote(&mut self, duration: Duration) {
        self.wrote += duration.as_secs_f64();
        self.decay();
    }

    fn decay(&mut self) {
        if self.learned + self.wrote > Self::MEMORY_SECONDS {
            self.learned *= 0.5;
            self.wrote *= 0.5;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn learning_gets_its_share_and_no_more() {
        let mut share = TimeShare::new(0.25);
        let (mut learned, mut wrote) = (0.0, 0.0);
        for _ in 0..4000 {
            if share.is_learner_due() {
                share.learned(Duration::from_millis(700));
                learned += 0.7;
            } else {
                share.wrote(Duration::from_millis(60));
                wrote += 0.06;
            }
        }
        let got: f64 = learned / (learned + wrote);
        assert!((got - 0.25).abs() < 0.03, "{got}");
    }
}
