//! RCO's loss on one critique group, and its gradient with respect to the log-ratios. Pure functions on numbers.
//!
//! `loss = mean_i (CU_i - b - beta r_i)^2 / (2 beta)`
//!
//! Here `r_i = log pi(c_i) - log pi_ref(c_i)`, summed over the critique's tokens at the sampling temperature, and the
//! baseline `b` is held constant. This is DRO's policy loss (arXiv 2405.19107, eq. 5) with the value replaced by `b`,
//! scaled by `1 / beta`. If `b` is `partition`, it is RCO's eq. 7 (arXiv 2506.22157) times `beta`.

mod off_policy;
mod scaling;
mod schedule;

pub use off_policy::{Diagnostics, effective_sample_ratio, second_moment_mask, weighted_mean};
pub use scaling::UtilityMoments;
pub use schedule::{Annealed, Schedule};

use serde::{Deserialize, Serialize};

/// The baseline `b` of the loss. All but `mean` have the optimum `pi_ref exp(CU / beta) / Z`; they differ in what they
/// need to reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Baseline {
    /// Group mean of `CU - beta r` under the current critic (DRO, appendix B; TBA, arXiv 2503.18929): the loss is then
    /// half the group's variance of `CU - beta r`, divided by beta. Unbiased for critiques of any critic and any age,
    /// and needs only two critiques a group. Use it if rollout and learning overlap.
    Vargrad,
    /// `beta log mean exp(CU / beta)` (RCO, eq. 7): the group's estimate of `beta log Z`. Valid for critiques sampled
    /// from the reference, and biased low in small groups. Use it to learn offline from the base model's critiques, as
    /// the paper does, with groups as large as possible.
    Partition,
    /// Group mean of CU (as in Kimi k1.5, arXiv 2501.12599): cheap, but biased off-policy unless beta is large. Use
    /// it as a control, or if the anchor to the reference hardly matters.
    Mean,
    /// `V(x, y0)` of a small network with its own loss (DRO, eq. 5 and algorithm 1). Valid for critiques of any critic
    /// once the network has converged, and shared between groups; a wrong value biases the critic off-policy.
    /// Use it for many prompts with few critiques each.
    Value,
}

/// How the loss of critiques that are unlikely under the current critic is reduced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Truncation {
    /// Not at all.
    #[default]
    None,
    /// TOPR (arXiv 2503.14286): a critique with a negative residual has the weight `pi / mu`, clipped to `[0, 1]` and
    /// without gradient; any other has weight 1. The optimum stays the same, because all residuals vanish there. Use it
    /// if replay is so old that the gradient norm explodes on critiques that are already unlikely.
    Topr,
}

/// Options of the loss. `None` turns an option off.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// The baseline.
    pub baseline: Baseline,
    /// Strength of the anchor to the reference, in units of the utilities; above 0.
    pub beta: f64,
    /// Residuals above this size have a linear loss and a constant gradient (Huber's loss), for noisy judges. In units
    /// of the utilities.
    pub residual_clip: Option<f64>,
    /// How old critiques are weighted.
    pub truncation: Truncation,
}

/// The inputs of the loss for one group; each slice has one entry per critique.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// Critique utilities, z-scored where that is on.
    pub utilities: &'a [f32],
    /// `r_i = log pi(c_i) - log pi_ref(c_i)` (nats).
    pub log_ratios: &'a [f32],
    /// `log pi(c_i) - log mu(c_i)` (nats), where `mu` is the policy that sampled the critique.
    pub behaviour: &'a [f32],
    /// `V(x, y0)` in units of the utilities; only `Baseline::Value` reads it.
    pub value: Option<f64>,
    /// Which critiques count ([`second_moment_mask`]); `None`: all.
    pub kept: Option<&'a [bool]>,
}

/// Loss of one group and its derivatives.
#[derive(Clone, Debug, PartialEq)]
pub struct Terms {
    /// The group's loss, in units of the utilities.
    pub loss: f64,
    /// The baseline used.
    pub baseline: f64,
    /// `d loss / d r_i`.
    pub gradient: Vec<f64>,
    /// Critiques whose weight was cut below 1.
    pub truncated: usize,
}

impl Observed<'_> {
    fn keeps(&self, index: usize) -> bool {
        self.kept.is_none_or(|kept| kept[index])
    }

    /// Mean over the kept critiques; 0 without any.
    fn mean_kept(&self, of: impl Fn(usize) -> f64) -> f64 {
        let kept = (0..self.utilities.len()).filter(|&index| self.keeps(index));
        let (sum, count) = kept.fold((0.0, 0u32), |(sum, count), index| (sum + of(index), count + 1));
        sum / f64::from(count.max(1))
    }

    /// The baseline. Means are taken over the critiques that count, as if the masked ones were not in the group. The
    /// estimate of Z is taken over all critiques, because a mask chosen by `pi / mu` would bias it.
    fn baseline(&self, options: &Options) -> f64 {
        let Options { baseline, beta, .. } = *options;
        let utility = |index: usize| f64::from(self.utilities[index]);
        match baseline {
            Baseline::Vargrad => self.mean_kept(|index| utility(index) - beta * f64::from(self.log_ratios[index])),
            Baseline::Mean => self.mean_kept(utility),
            Baseline::Value => self.value.expect("baseline value: the caller predicts V first"),
            Baseline::Partition => {
                let count = self.utilities.len();
                let top = (0..count).map(utility).fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = (0..count).map(|index| ((utility(index) - top) / beta).exp()).sum();
                top + beta * (sum / count as f64).ln()
            }
        }
    }
}

/// RCO's loss of one group of critiques.
///
/// # Panics
/// If the slices are empty or differ in length, or `Baseline::Value` has no value.
pub fn rco(options: &Options, group: &Observed<'_>) -> Terms {
    let count = group.utilities.len();
    assert!(count > 0 && [group.log_ratios.len(), group.behaviour.len()] == [count; 2], "one log-ratio a utility");
    let baseline = group.baseline(options);
    let mut terms = Terms { loss: 0.0, baseline, gradient: vec![0.0; count], truncated: 0 };
    let limit = options.residual_clip.unwrap_or(f64::INFINITY);
    for index in (0..count).filter(|&index| group.keeps(index)) {
        let residual = f64::from(group.utilities[index]) - baseline - options.beta * f64::from(group.log_ratios[index]);
        let weight = match options.truncation {
            Truncation::Topr if residual < 0.0 => f64::from(group.behaviour[index]).exp().min(1.0),
            _ => 1.0,
        };
        terms.truncated += usize::from(weight < 1.0);
        let clipped = residual.clamp(-limit, limit);
        // Half the square up to the limit, then its tangent.
        terms.loss += weight * clipped * (residual - 0.5 * clipped) / (options.beta * count as f64);
        terms.gradient[index] = -weight * clipped / count as f64;
    }
    terms
}

#[cfg(test)]
mod tests;
