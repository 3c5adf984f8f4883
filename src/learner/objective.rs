//! The DRO loss of one critique group, and its gradient with respect to the log-ratios. Pure numbers.
//!
//! With `r_i = log pi(c_i) - log pi_ref(c_i)`, summed over the critique's tokens at the sampling
//! temperature, and the baseline `b` held constant:
//!
//! `loss = mean_i (CU_i - b - beta r_i)^2 / (2 beta)`
//!
//! which is DRO's policy loss (arXiv 2405.19107, eq. 5) with the value replaced by `b` and scaled by
//! `1 / beta`, and RCO's eq. 7 (arXiv 2506.22157) times `beta` where `b` is `partition`.

use serde::{Deserialize, Serialize};

/// The baseline `b` of the DRO loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Baseline {
    /// Group mean of `CU - beta r` under the current critic (DRO, appendix B): right for critiques of any
    /// critic and any age.
    Vargrad,
    /// `beta log mean exp(CU / beta)` (RCO, eq. 7): right for critiques sampled from the reference.
    Partition,
    /// Group mean of CU: biased off-policy unless beta is large.
    Mean,
}

impl Baseline {
    /// The value of `b` for one group.
    fn value(self, beta: f64, utilities: &[f32], log_ratios: &[f32]) -> f64 {
        let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / utilities.len() as f64;
        let cu = || utilities.iter().map(|&u| f64::from(u));
        match self {
            Self::Vargrad => mean(&mut cu().zip(log_ratios).map(|(u, &r)| u - beta * f64::from(r))),
            Self::Partition => {
                let top = cu().fold(f64::NEG_INFINITY, f64::max);
                top + beta * mean(&mut cu().map(|u| ((u - top) / beta).exp())).ln()
            }
            Self::Mean => mean(&mut cu()),
        }
    }
}

/// Loss of one group and its derivatives.
#[derive(Clone, Debug, PartialEq)]
pub struct Terms {
    /// The group's loss.
    pub loss: f64,
    /// The baseline used.
    pub baseline: f64,
    /// `d loss / d r_i`.
    pub gradient: Vec<f64>,
}

/// The DRO loss of one group of critiques.
///
/// # Panics
/// Where there are not as many log-ratios as utilities, or none.
pub fn dro(baseline: Baseline, beta: f64, utilities: &[f32], log_ratios: &[f32]) -> Terms {
    assert!(!utilities.is_empty() && utilities.len() == log_ratios.len(), "one log-ratio a utility");
    let count = utilities.len() as f64;
    let b = baseline.value(beta, utilities, log_ratios);
    let residuals: Vec<f64> =
        utilities.iter().zip(log_ratios).map(|(&u, &r)| f64::from(u) - b - beta * f64::from(r)).collect();
    Terms {
        loss: residuals.iter().map(|residual| residual * residual).sum::<f64>() / (2.0 * beta * count),
        baseline: b,
        gradient: residuals.iter().map(|residual| -residual / count).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UTILITIES: [f32; 4] = [0.0, 0.25, 0.5, 1.0];

    #[test]
    fn at_the_optimum_of_a_group_partition_and_vargrad_lose_nothing() {
        // r_i = (CU_i - beta log Z) / beta is the optimum p exp(CU / beta) / Z.
        let beta = 0.3;
        let z = UTILITIES.iter().map(|&u| (f64::from(u) / beta).exp()).sum::<f64>() / 4.0;
        let ratios = UTILITIES.map(|u| (f64::from(u) / beta - z.ln()) as f32);
        for baseline in [Baseline::Partition, Baseline::Vargrad] {
            assert!(dro(baseline, beta, &UTILITIES, &ratios).loss < 1e-12, "{baseline:?}");
        }
        assert!(dro(Baseline::Mean, beta, &UTILITIES, &ratios).loss > 1e-3);
    }

    #[test]
    fn partition_stands_very_small_betas() {
        let terms = dro(Baseline::Partition, 1e-4, &UTILITIES, &[0.0; 4]);
        assert!(terms.loss.is_finite() && (terms.baseline - 1.0).abs() < 1e-3, "{terms:?}");
    }

    #[test]
    fn the_weights_of_vargrad_and_mean_sum_to_zero_at_the_start() {
        for baseline in [Baseline::Vargrad, Baseline::Mean] {
            assert!(dro(baseline, 0.1, &UTILITIES, &[0.0; 4]).gradient.iter().sum::<f64>().abs() < 1e-12);
        }
    }
}
