//! Off-policy diagnostics: how far the current critic has moved from the critics that sampled a batch.

use serde::{Deserialize, Serialize};

/// Age of a batch's critiques and their distance from the current critic. Each log-ratio is a sum over a critique's
/// tokens (nats).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Diagnostics {
    /// Mean of log pi/pi_ref.
    pub log_ratio_mean: f32,
    /// Mean of its square.
    pub log_ratio_second_moment: f32,
    /// Mean of log pi/mu, where mu sampled the critique.
    pub behaviour_mean: f32,
    /// Mean of its square, which M2PO (arXiv 2510.01161) limits because signs cannot cancel in it.
    pub behaviour_second_moment: f32,
    /// [`effective_sample_ratio`] of pi/mu.
    pub effective_sample_ratio: f32,
    /// Mean number of versions published since each critique's own.
    pub age_mean_versions: f32,
    /// The largest of them.
    pub age_max_versions: u64,
}

impl Diagnostics {
    /// Diagnostics of a batch: `log_ratios` are log pi/pi_ref, `behaviour` log pi/mu, and `ages_versions` the published
    /// version minus the version that wrote the critique.
    pub fn of(log_ratios: &[f32], behaviour: &[f32], ages_versions: &[u64]) -> Self {
        Self {
            log_ratio_mean: mean(log_ratios, |r| r),
            log_ratio_second_moment: mean(log_ratios, |r| r * r),
            behaviour_mean: mean(behaviour, |r| r),
            behaviour_second_moment: mean(behaviour, |r| r * r),
            effective_sample_ratio: effective_sample_ratio(behaviour) as f32,
            age_mean_versions: (ages_versions.iter().sum::<u64>() as f64 / ages_versions.len().max(1) as f64) as f32,
            age_max_versions: ages_versions.iter().copied().max().unwrap_or_default(),
        }
    }
}

fn mean(values: &[f32], of: impl Fn(f64) -> f64) -> f32 {
    (values.iter().map(|&value| of(f64::from(value))).sum::<f64>() / values.len().max(1) as f64) as f32
}

/// Kish's effective sample size of the weights `w_i = exp(log_ratios_i)`, as a share of their number:
/// `(sum w)^2 / (n sum w^2)`, in `[1/n, 1]`; 1 for none.
///
/// 1: all weights are equal, as on-policy. `1/n`: one critique has all the weight.
pub fn effective_sample_ratio(log_ratios: &[f32]) -> f64 {
    let (sum, squares) =
        weights(log_ratios).fold((0.0, 0.0), |(sum, squares), weight| (sum + weight, squares + weight * weight));
    if log_ratios.is_empty() { 1.0 } else { sum * sum / (squares * log_ratios.len() as f64) }
}

/// Mean of `values` under the weights `exp(log_ratios_i)`, which need not sum to one: with log pi/mu of one prompt's
/// critiques and their utilities, the self-normalised estimate of pi's mean utility there. It is reliable if
/// the [`effective_sample_ratio`] is near 1, and does not cover critiques that mu never wrote.
///
/// # Panics
/// If there is no value.
pub fn weighted_mean(values: &[f32], log_ratios: &[f32]) -> f64 {
    assert!(!values.is_empty(), "a mean of something");
    let weighted = weights(log_ratios).zip(values).map(|(weight, &value)| (weight, weight * f64::from(value)));
    let (sum, total) = weighted.fold((0.0, 0.0), |(sum, total), (weight, value)| (sum + weight, total + value));
    total / sum
}

/// `exp(log_ratios_i)` up to a common factor that keeps the largest from overflowing.
fn weights(log_ratios: &[f32]) -> impl Iterator<Item = f64> {
    let top = log_ratios.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    log_ratios.iter().map(move |&ratio| f64::from(ratio - top).exp())
}

/// Selects the critiques whose mean square of log pi/mu is at most `limit`. The farthest are left out first.
///
/// M2PO (arXiv 2510.01161, algorithm 1) masks tokens. This mask applies to whole critiques, as the residual of RCO's
/// loss does. A critique's log-ratio is a sum over its tokens, so the limit for critiques of T tokens is between T and
/// T^2 times the paper's 0.04. Use it for replay of mixed age in which few critiques are far away.
pub fn second_moment_mask(log_ratios: &[f32], limit: f64) -> Vec<bool> {
    let mut nearest: Vec<usize> = (0..log_ratios.len()).collect();
    nearest.sort_by(|&one, &other| log_ratios[one].abs().total_cmp(&log_ratios[other].abs()).then(one.cmp(&other)));
    let mut kept = vec![false; log_ratios.len()];
    let mut squares = 0.0;
    for (count, index) in nearest.into_iter().enumerate() {
        squares += f64::from(log_ratios[index]).powi(2);
        // From the first NaN on, no critique is kept.
        kept[index] = squares <= limit * (count + 1) as f64;
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_farthest_leave_until_the_second_moment_is_under_the_limit() {
        let ratios = [0.1, -3.0, 0.2, 2.0, -0.1];
        assert_eq!(second_moment_mask(&ratios, 100.0), [true; 5]);
        assert_eq!(second_moment_mask(&ratios, 1.2), [true, false, true, true, true]);
        assert_eq!(second_moment_mask(&ratios, 0.5), [true, false, true, false, true]);
        assert_eq!(second_moment_mask(&ratios, 0.0), [false; 5]);
        assert_eq!(second_moment_mask(&[f32::NAN, 0.0, f32::INFINITY], 1.0), [false, true, false]);
        assert_eq!(second_moment_mask(&[], 1.0), [] as [bool; 0]);
    }

    #[test]
    fn equal_weights_are_a_full_sample_and_one_large_weight_is_a_single_one() {
        assert!((effective_sample_ratio(&[-700.0; 8]) - 1.0).abs() < 1e-12);
        assert!((effective_sample_ratio(&[800.0, -800.0, -800.0, -800.0]) - 0.25).abs() < 1e-12);
        // Weights 1 and 3: 16 / (2 x 10).
        assert!((effective_sample_ratio(&[0.0, 3.0f32.ln()]) - 0.8).abs() < 1e-6);
        assert_eq!(effective_sample_ratio(&[]), 1.0);
    }

    #[test]
    fn utilities_count_as_often_as_the_critic_would_write_their_critiques() {
        assert!((weighted_mean(&[0.0, 0.5, 1.0], &[-9.0; 3]) - 0.5).abs() < 1e-12);
        // Weights 1 and 3.
        assert!((weighted_mean(&[0.2, 1.0], &[0.0, 3.0f32.ln()]) - 0.8).abs() < 1e-6);
        assert!((weighted_mean(&[0.25, 1.0], &[800.0, -800.0]) - 0.25).abs() < 1e-12);
    }

    #[test]
    fn second_moments_see_what_means_hide() {
        let diagnostics = Diagnostics::of(&[1.0, -1.0], &[2.0, -2.0], &[0, 5]);
        assert_eq!((diagnostics.log_ratio_mean, diagnostics.log_ratio_second_moment), (0.0, 1.0));
        assert_eq!((diagnostics.behaviour_mean, diagnostics.behaviour_second_moment), (0.0, 4.0));
        assert_eq!((diagnostics.age_mean_versions, diagnostics.age_max_versions), (2.5, 5));
    }
}
