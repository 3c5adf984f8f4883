//! What a learner reports and what it keeps: plain values on the host.

use super::objective::{Diagnostics, UtilityMoments};
use crate::transformer::full_weights::CriticWeights;
use serde::{Deserialize, Serialize};

/// What one step did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Steps taken so far, this one included.
    pub step: u64,
    /// Mean loss of the step's groups: RCO's in units of the utilities, DPCO's in nats.
    pub loss: f32,
    /// Norm of the gradient before clipping.
    pub gradient_norm: f32,
    /// How far the critic is from the reference and from what wrote the critiques, and how old they are.
    #[serde(flatten)]
    pub off_policy: Diagnostics,
    /// What the critic before the step would earn on the step's prompts, as far as the critiques learned from tell: the
    /// mean over groups of their utilities, each weighed by pi/mu.
    #[serde(default)]
    pub weighted_utility: f32,
    /// Strength of the anchor.
    #[serde(default)]
    pub beta: f32,
    /// Mean baseline of RCO's loss, in units of the utilities.
    #[serde(default)]
    pub baseline: Option<f32>,
    /// What utilities are divided by, where they are z-scored.
    #[serde(default)]
    pub utility_deviation: Option<f32>,
    /// Mean loss of the value network, where there is one.
    #[serde(default)]
    pub value_loss: Option<f32>,
    /// Share of DPCO's pairs that the critic orders as the judge does.
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

/// All that a learner must keep to go on bit for bit.
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
    /// AdamW's moments by name, such as `layers.0.q_proj.lora_A.m` or `model.norm.weight.v`; where there are any, the value network
    /// (`value.`...), the reference's factors (`reference.layers.`...) and what it said of the groups in use.
    pub optimizer: Vec<(String, HostTensor)>,
    /// Moments of the utilities learned from.
    pub utilities: UtilityMoments,
}
