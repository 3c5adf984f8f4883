//! The learner's report of a step and its saved state: plain values on the host.

use super::objective::{Diagnostics, UtilityMoments};
use crate::transformer::full_weights::CriticWeights;
use serde::{Deserialize, Serialize};

/// Report of one step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Steps taken so far, this one included.
    pub step: u64,
    /// Mean loss of the step's groups: RCO's in units of the utilities, DPCO's in nats.
    pub loss: f32,
    /// Norm of the gradient before clipping.
    pub gradient_norm: f32,
    /// Distance of the critic from the reference and from the critics that sampled the batch, and the critiques' age.
    #[serde(flatten)]
    pub off_policy: Diagnostics,
    /// Estimated mean utility, on the step's prompts, of the critic before the step: the mean over groups of their
    /// utilities weighted by pi/mu.
    #[serde(default)]
    pub weighted_utility: f32,
    /// Strength of the anchor.
    #[serde(default)]
    pub beta: f32,
    /// Mean baseline of RCO's loss, in units of the utilities.
    #[serde(default)]
    pub baseline: Option<f32>,
    /// Deviation that utilities are divided by, if they are z-scored.
    #[serde(default)]
    pub utility_deviation: Option<f32>,
    /// Mean loss of the value network, where there is one.
    #[serde(default)]
    pub value_loss: Option<f32>,
    /// Share of DPCO's pairs that critic and judge order alike.
    #[serde(default)]
    pub preference_accuracy: Option<f32>,
    /// Mean of beta times the difference of a pair's log-ratios.
    #[serde(default)]
    pub preference_margin: Option<f32>,
    /// Critiques whose weight was cut below 1.
    #[serde(default)]
    pub truncated: usize,
    /// Critiques left out by the second-moment mask.
    #[serde(default)]
    pub masked: usize,
    /// How often the critic had become the reference before this step.
    #[serde(default)]
    pub reference_resets: u64,
    /// Mean absolute difference, per token, between the sampler's log-prob and the score pass under the
    /// same version (only critiques written by the current weights count); none where there is none.
    #[serde(rename = "sampler_difference")]
    pub train_inference_mismatch: Option<f32>,
    /// Critique tokens learned from.
    pub tokens: usize,
    /// Learning rate used.
    pub learning_rate: f64,
}

/// A tensor on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    /// Sizes.
    pub shape: Vec<usize>,
    /// Row-major values.
    pub data: Vec<f32>,
}

/// All that a learner needs to resume bit for bit.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// Steps taken.
    pub step: u64,
    /// Name of the last batch applied, 0 before the first.
    pub batch: u64,
    /// Report of the last step.
    pub report: Option<Report>,
    /// The weights.
    pub critic: CriticWeights,
    /// AdamW's moments by name, such as `layers.0.q_proj.lora_A.m` or `model.norm.weight.v`; also the value network
    /// (`value.`...), the reference's factors (`reference.layers.`...) and its values for the groups in use, if
    /// present.
    pub optimizer: Vec<(String, HostTensor)>,
    /// Moments of the utilities learned from.
    pub utilities: UtilityMoments,
}
