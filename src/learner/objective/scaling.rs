//! Z-scoring of utilities, as DRO scales its rewards (arXiv 2405.19107, section 4).

use serde::{Deserialize, Serialize};

/// Running mean and deviation of the utilities of all groups learned from (Welford's recurrence).
///
/// With z-scoring the learner sees `(CU - mean) / deviation`. The shift does not change `vargrad`, `partition` and
/// `mean`. The division puts `beta` in units of the deviation: it then corresponds to `beta x deviation` on the raw
/// utilities. The deviation of CU is mostly 0.2 to 0.3, so DRO's `beta = 1` on z-scores is about 0.2 to 0.3 without
/// them. Use it to share one beta between tasks or judges of different spread. Leave it off if the optimum has to stay
/// fixed, because it moves with the deviation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UtilityMoments {
    count: u64,
    mean: f64,
    /// Sum of squared deviations from the mean.
    squares: f64,
}

/// A deviation below this counts as none: one step of a judge's scale is far larger.
const DEVIATION_MIN: f64 = 1e-6;

impl UtilityMoments {
    /// Adds the utilities of one more group.
    pub fn see(&mut self, utilities: impl IntoIterator<Item = f32>) {
        for utility in utilities.into_iter().map(f64::from) {
            self.count += 1;
            let before = utility - self.mean;
            self.mean += before / self.count as f64;
            self.squares += before * (utility - self.mean);
        }
    }

    /// The mean; 0 before the first group.
    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// The standard deviation; 1 while there is none, so that nothing is scaled.
    pub fn deviation(&self) -> f64 {
        let deviation = (self.squares / self.count.max(1) as f64).sqrt();
        if deviation < DEVIATION_MIN { 1.0 } else { deviation }
    }

    /// `utility` as a z-score.
    pub fn score(&self, utility: f32) -> f32 {
        ((f64::from(utility) - self.mean) / self.deviation()) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn z_scores_have_mean_zero_and_deviation_one_however_the_groups_came() {
        let utilities = [0.0, 0.25, 0.5, 1.0, 0.75, 0.5];
        let mut moments = UtilityMoments::default();
        moments.see(utilities[..2].to_vec());
        moments.see(utilities[2..].to_vec());
        let scores = utilities.map(|utility| f64::from(moments.score(utility)));
        let mean = scores.iter().sum::<f64>() / 6.0;
        let square = scores.iter().map(|z| z * z).sum::<f64>() / 6.0;
        assert!(mean.abs() < 1e-6 && (square - 1.0).abs() < 1e-6, "{scores:?}");
    }

    #[test]
    fn utilities_without_a_spread_are_not_scaled() {
        let mut moments = UtilityMoments::default();
        assert_eq!(moments.score(0.5), 0.5);
        moments.see([0.5; 4]);
        assert_eq!((moments.score(0.5), moments.score(1.0)), (0.0, 0.5));
    }
}
