//! How the critic learns: the keys of `[learner]` and what they mean to the loss.

use super::objective::{Annealed, Baseline, Options, Schedule, Truncation};
use crate::formats::adapter::LoraConfig;
use crate::kernels::{MatmulPrecision, Precision};
use crate::transformer::score::ActivationPolicy;
use crate::types::Objective;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// A LoRA adapter on the base's weights (arXiv 2106.09685).
    Lora,
    /// Every weight of a critic that starts as a copy of the base. Only on the CPU.
    Full,
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Lora => "lora",
            Self::Full => "full",
        })
    }
}

/// How the critic learns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LearnerConfig {
    /// What is trained. `lora` has the keys of the adapter, `full` has none.
    pub mode: Mode,
    /// The folder of the weights to start from, an adapter or all weights; empty: as the base model.
    pub start_from: String,
    /// How the learner's pass keeps the base's weights on the CPU; in the mode `full` they are always f32.
    pub base: Precision,
    /// What the linears of the learner's pass multiply on the CPU; in the mode `full` always f32.
    pub matmul_precision: MatmulPrecision,
    /// The objective. DPCO uses `beta`, its schedule and the reference; the keys from `baseline` to `second_moment_max`
    /// are only for RCO.
    pub objective: Objective,
    /// Baseline of the DRO loss.
    pub baseline: Baseline,
    /// Subtract the running mean of the utilities and divide by their deviation. `beta` is then in units of the
    /// deviation.
    pub utility_zscore: bool,
    /// Largest residual in the gradient, in units of the utilities; 0: off.
    pub residual_clip: f64,
    /// How the loss of critiques that are unlikely under the current critic is reduced.
    pub truncation: Truncation,
    /// Critiques are left out of a step until the mean square of log pi/mu is at most this; 0: off.
    pub second_moment_max: f64,
    /// Most critiques of a group to learn from; those with the largest variance of utilities are taken. 0: all. Only
    /// for RCO.
    pub critiques_max: usize,
    /// Strength of the KL anchor to the reference.
    pub beta: f32,
    /// How beta changes over the steps.
    pub beta_schedule: Schedule,
    /// Beta at the schedule's end.
    pub beta_final: f32,
    /// Steps until then.
    pub beta_steps: u64,
    /// Steps between two resets of the reference to the current critic; 0: the reference stays the base model, as the
    /// mode `full` requires.
    pub reference_reset_steps: u64,
    /// Peak learning rate, reached after the warm-up.
    pub learning_rate: f64,
    /// How the learning rate changes over the steps; the warm-up multiplies it.
    pub learning_rate_schedule: Schedule,
    /// Learning rate at the schedule's end.
    pub learning_rate_final: f64,
    /// Steps until then.
    pub learning_rate_steps: u64,
    /// Steps over which the learning rate rises linearly.
    pub warmup_steps: u64,
    /// Decay of AdamW's first moment.
    pub adam_beta1: f64,
    /// Decay of AdamW's second moment.
    pub adam_beta2: f64,
    /// AdamW's epsilon.
    pub adam_epsilon: f64,
    /// Decoupled weight decay; in mode `full` only of matrices.
    pub weight_decay: f64,
    /// Largest norm of a step's gradient.
    pub clip_norm: f64,
    /// A step whose gradient has a larger norm is not taken, and the batch is refused; 0: off.
    pub gradient_norm_max: f64,
    /// Groups of one step.
    pub groups_per_step: usize,
    /// Most tokens of one micro-batch; groups share a micro-batch up to this size.
    pub micro_batch_tokens: usize,
    /// Keep only each layer's input and recompute the rest for the gradient: a fraction of the memory for a third more
    /// time.
    pub checkpoint_layers: bool,
    /// Steps between two publications.
    pub publish_every_steps: u64,
    /// Share of the device's time while there are tokens to write, in `(0, 1]`.
    pub device_share: f64,
    /// Learn each group before the next episode starts.
    pub synchronous: bool,
    /// Deadline of one step, in seconds.
    pub step_deadline_seconds: u64,
    /// The adapter, where the mode is `lora`.
    pub lora: LoraConfig,
    /// The value network of the baseline `value`.
    pub value: ValueConfig,
}

impl LearnerConfig {
    /// Whether the critic of `step` is to be published, the last publication being that of `published_step`.
    pub fn is_publication_due(&self, step: u64, published_step: u64) -> bool {
        step >= published_step + self.publish_every_steps
    }

    /// How the learner's pass keeps the base's weights on the CPU.
    pub fn base_precision(&self) -> Precision {
        if self.mode == Mode::Full { Precision::F32 } else { self.base }
    }

    /// What the linears of the learner's pass multiply on the CPU.
    pub fn matmul(&self) -> MatmulPrecision {
        if self.mode == Mode::Full { MatmulPrecision::F32 } else { self.matmul_precision }
    }

    /// The folder of the weights to start from, if there is one.
    pub fn start(&self) -> Option<&Path> {
        (!self.start_from.is_empty()).then(|| Path::new(&self.start_from))
    }

    /// What a pass keeps for its gradient.
    pub fn activation_policy(&self) -> ActivationPolicy {
        ActivationPolicy::of(self.checkpoint_layers)
    }

    /// Beta over the steps.
    pub fn betas(&self) -> Annealed {
        let (first, last) = (self.beta.into(), self.beta_final.into());
        Annealed { schedule: self.beta_schedule, first, last, steps: self.beta_steps }
    }

    /// The learning rate over the steps, without the warm-up.
    pub fn learning_rates(&self) -> Annealed {
        let (first, last) = (self.learning_rate, self.learning_rate_final);
        Annealed { schedule: self.learning_rate_schedule, first, last, steps: self.learning_rate_steps }
    }

    /// Options of a group's loss at `beta`.
    pub(super) fn options(&self, beta: f64) -> Options {
        let residual_clip = (self.residual_clip > 0.0).then_some(self.residual_clip);
        Options { baseline: self.baseline, beta, residual_clip, truncation: self.truncation }
    }

    /// Whether there is a value network.
    pub(super) fn has_value(&self) -> bool {
        self.objective == Objective::Rco && self.baseline == Baseline::Value
    }

    /// When the reference changes.
    pub(super) fn resets(&self) -> Resets {
        Resets { every_steps: self.reference_reset_steps }
    }
}

/// The value network of `learner.baseline = "value"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValueConfig {
    /// Units of its hidden layer.
    pub width: usize,
    /// Its learning rate, after the learner's warm-up.
    pub learning_rate: f64,
}

/// When the reference is reset: reference 0 is the base model, reference k the critic after `k x every_steps` steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Resets {
    /// Steps between two resets; 0: never.
    pub(super) every_steps: u64,
}

impl Resets {
    /// Index of the reference for a group that is first learned after `steps` steps.
    pub(super) fn index(self, steps: u64) -> u64 {
        steps.checked_div(self.every_steps).unwrap_or(0)
    }

    /// Whether the critic becomes the reference after step `steps`.
    pub(super) fn falls_after(self, steps: u64) -> bool {
        steps > 0 && self.index(steps) > self.index(steps - 1)
    }
}
