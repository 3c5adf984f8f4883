//! What the groups of a critic earned, and whether one critic earns less than another.

use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, StudentsT};

/// Sums over the mean utilities of a critic's groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Groups.
    pub groups: u64,
    /// Sum of their mean utilities.
    pub sum: f64,
    /// Sum of the squares.
    pub squares: f64,
}

impl Scores {
    /// Adds a group's mean utility, in `[0, 1]`.
    pub fn add(&mut self, utility: f64) {
        self.groups += 1;
        self.sum += utility;
        self.squares += utility * utility;
    }

    /// The mean; none without groups.
    pub fn mean(&self) -> Option<f64> {
        (self.groups > 0).then(|| self.sum / self.groups as f64)
    }

    /// Half the width of the 95 % confidence interval of the mean (Student's t); none for fewer than two groups.
    pub fn half_width(&self) -> Option<f64> {
        let n = self.groups as f64;
        let distribution = StudentsT::new(0.0, 1.0, n - 1.0).ok().filter(|_| self.groups > 1)?;
        Some(distribution.inverse_cdf(0.975) * (self.variance()? / n).sqrt())
    }

    fn variance(&self) -> Option<f64> {
        let n = self.groups as f64;
        (self.groups > 1).then(|| ((self.squares - self.sum * self.sum / n) / (n - 1.0)).max(0.0))
    }
}

impl FromIterator<f64> for Scores {
    fn from_iter<I: IntoIterator<Item = f64>>(utilities: I) -> Self {
        let mut scores = Self::default();
        utilities.into_iter().for_each(|utility| scores.add(utility));
        scores
    }
}

/// How sure it is that one mean is below another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// The first mean less the second.
    pub difference: f64,
    /// The confidence, in `[0, 1]`, that the first is the lower one: one less the p-value of a one-sided t test.
    pub lower: f64,
}

impl Comparison {
    /// Compares the means of independent groups by Welch's t test; none where either has fewer than two.
    pub fn welch(one: &Scores, other: &Scores) -> Option<Self> {
        let (a, b) = (one.variance()? / one.groups as f64, other.variance()? / other.groups as f64);
        let difference = one.mean()? - other.mean()?;
        let freedom = (a + b).powi(2)
            / (a * a / (one.groups as f64 - 1.0) + b * b / (other.groups as f64 - 1.0)).max(f64::MIN_POSITIVE);
        Some(Self::of(difference, (a + b).sqrt(), freedom))
    }

    /// Compares pairs by their differences, each the first less the second; none for fewer than two.
    pub fn paired(differences: &[f64]) -> Option<Self> {
        let scores: Scores = differences.iter().copied().collect();
        let error = (scores.variance()? / scores.groups as f64).sqrt();
        Some(Self::of(scores.mean()?, error, scores.groups as f64 - 1.0))
    }

    fn of(difference: f64, error: f64, freedom: f64) -> Self {
        let lower = match StudentsT::new(0.0, 1.0, freedom) {
            Ok(distribution) if error > 0.0 => 1.0 - distribution.cdf(difference / error),
            // Without any variance the sign decides.
            _ if difference < 0.0 => 1.0,
            _ if difference > 0.0 => 0.0,
            _ => 0.5,
        };
        Self { difference, lower }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From scipy 1.17: `ttest_ind(a, b, equal_var=False, alternative="less")`, `ttest_rel(a, b, alternative="less")` and
    /// `t.interval(0.95, 4, mean(a), sem(a))`.
    #[test]
    fn tests_and_intervals_are_those_of_scipy() {
        let (a, b) = ([0.40, 0.55, 0.50, 0.35, 0.45], [0.60, 0.58, 0.70, 0.52, 0.61]);
        let scores = |utilities: &[f64]| utilities.iter().copied().collect::<Scores>();
        let welch = Comparison::welch(&scores(&a), &scores(&b)).expect("there are five of each");
        assert!((1.0 - welch.lower - WELCH_P).abs() < 1e-6, "{}", 1.0 - welch.lower);
        let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
        let paired = Comparison::paired(&differences).expect("there are five pairs");
        assert!((1.0 - paired.lower - PAIRED_P).abs() < 1e-6, "{}", 1.0 - paired.lower);
        let half = scores(&a).half_width().expect("there are five");
        assert!((half - HALF_WIDTH).abs() < 1e-6, "{half}");
    }

    const WELCH_P: f64 = 0.005_540_422_778_618_382;
    const PAIRED_P: f64 = 0.004_257_955_203_814_882;
    const HALF_WIDTH: f64 = 0.098_162_158_073_877_88;

    #[test]
    fn too_few_groups_say_nothing_and_equal_ones_are_even() {
        let one = Scores { groups: 1, sum: 0.5, squares: 0.25 };
        assert_eq!((one.half_width(), Comparison::welch(&one, &one), Comparison::paired(&[0.1])), (None, None, None));
        let even = Comparison::paired(&[0.0, 0.0, 0.0]).expect("there are three");
        assert_eq!((even.difference, even.lower), (0.0, 0.5));
        assert_eq!(Comparison::paired(&[-0.1, -0.1]).map(|comparison| comparison.lower), Some(1.0));
    }
}
