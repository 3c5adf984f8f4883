//! How one quantity grows with another: y = c x^exponent, fitted by least squares of the logarithms.

/// A fitted power law.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct PowerLaw {
    pub(super) exponent: f64,
    /// y at x = 1.
    coefficient: f64,
    /// By how much the point that is farthest from the fit differs from it, as a share: 0.1 is a tenth, up or down.
    pub(super) deviation: f64,
}

impl PowerLaw {
    /// The law that fits `points`; none with fewer than two different x, or where a number is not positive and finite.
    pub(super) fn fit(points: &[(f64, f64)]) -> Option<Self> {
        let is_positive = |number: f64| number > 0.0 && number.is_finite();
        if points.is_empty() || !points.iter().all(|&(x, y)| is_positive(x) && is_positive(y)) {
            return None;
        }
        let logs: Vec<(f64, f64)> = points.iter().map(|(x, y)| (x.ln(), y.ln())).collect();
        let mean = |of: fn(&(f64, f64)) -> f64| logs.iter().map(of).sum::<f64>() / logs.len() as f64;
        let (x_mean, y_mean) = (mean(|point| point.0), mean(|point| point.1));
        let spread: f64 = logs.iter().map(|(x, _)| (x - x_mean).powi(2)).sum();
        if spread < 1e-12 {
            return None;
        }
        let exponent = logs.iter().map(|(x, y)| (x - x_mean) * (y - y_mean)).sum::<f64>() / spread;
        let offset = y_mean - exponent * x_mean;
        let farthest = logs.iter().map(|(x, y)| (y - exponent * x - offset).abs()).fold(0.0, f64::max);
        Some(Self { exponent, coefficient: offset.exp(), deviation: farthest.exp_m1() })
    }

    /// The fitted y at `x`.
    pub(super) fn at(&self, x: f64) -> f64 {
        self.coefficient * x.powf(self.exponent)
    }
}

#[cfg(test)]
mod tests {
    use super::PowerLaw;

    #[test]
    fn a_power_law_is_fitted_exactly() {
        let points: Vec<(f64, f64)> = [1.0, 2.0, 5.0, 40.0].map(|x: f64| (x, 3.0 * x.powf(-1.25))).to_vec();
        let law = PowerLaw::fit(&points).expect("four points have a fit");
        assert!((law.exponent + 1.25).abs() < 1e-12 && law.deviation < 1e-12, "{law:?}");
        assert!((law.at(10.0) / (3.0 * 10f64.powf(-1.25)) - 1.0).abs() < 1e-12, "{law:?}");
    }

    #[test]
    fn the_deviation_is_that_of_the_point_farthest_from_the_fit() {
        // In logarithms the line is flat at 2/3 ln 2, so the middle point is farthest: 4/3 ln 2 above.
        let law = PowerLaw::fit(&[(1.0, 1.0), (2.0, 4.0), (4.0, 1.0)]).expect("three points have a fit");
        assert!(law.exponent.abs() < 1e-12, "{law:?}");
        assert!((law.deviation - (2f64.powf(4.0 / 3.0) - 1.0)).abs() < 1e-12, "{law:?}");
    }

    #[test]
    fn one_size_gives_no_exponent_and_neither_does_a_number_without_a_logarithm() {
        assert_eq!(PowerLaw::fit(&[]), None);
        assert_eq!(PowerLaw::fit(&[(4.0, 2.0)]), None);
        assert_eq!(PowerLaw::fit(&[(4.0, 2.0), (4.0, 3.0)]), None);
        assert_eq!(PowerLaw::fit(&[(1.0, 2.0), (2.0, 0.0)]), None);
        assert_eq!(PowerLaw::fit(&[(0.0, 2.0), (2.0, 1.0)]), None);
        assert_eq!(PowerLaw::fit(&[(1.0, f64::NAN), (2.0, 1.0)]), None);
    }
}
