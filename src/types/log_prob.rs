//! Log-probabilities that others wrote.

/// The logarithm of 1, and what rounding adds to it.
const MAX: f64 = 1e-3;

/// Whether `value` is a log-probability: finite, and at most 0 but for rounding.
pub(crate) fn is_log_prob(value: impl Into<f64>) -> bool {
    let value = value.into();
    value.is_finite() && value <= MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_probability_is_finite_and_at_most_0_but_for_rounding() {
        for value in [0.0, -1e-9, -9999.0, 9e-4] {
            assert!(is_log_prob(value), "{value}");
        }
        for value in [2e-3, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(!is_log_prob(value), "{value}");
        }
    }
}
