//! What a learner reports and what it keeps: plain values on the host.

use crate::model::lora::Adapter;
use serde::{Deserialize, Serialize};

/// What one step did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Steps taken so far, this one included.
    pub step: u64,
    /// Mean DRO loss of the step's critiques.
    pub loss: f32,
    /// Norm of the gradient before clipping.
    pub gradient_norm: f32,
    /// Mean of log pi/pi_ref over the critiques (sums over tokens, nats).
    pub log_ratio_mean: f32,
    /// Mean of its square.
    pub log_ratio_second_moment: f32,
    /// Mean absolute difference, per token, between the sampler's log-prob and the score pass under the
    /// same version (only critiques written by the current weights count); none where there is none.
    pub sampler_difference: Option<f32>,
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
    pub adapter: Adapter,
    /// AdamW's moments by name, such as `layers.0.q_proj.lora_A.m`.
    pub optimizer: Vec<(String, HostTensor)>,
}
