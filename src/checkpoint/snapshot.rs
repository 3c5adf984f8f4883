//! What a checkpoint stores.

use crate::transformer::full_weights::CriticWeights;
use crate::types::CriticVersion;

/// A named tensor on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    /// The name, such as `layers.0.q_proj.lora_A.m`.
    pub name: String,
    /// The sizes.
    pub shape: Vec<usize>,
    /// The values, row-major.
    pub data: Vec<f32>,
}

/// All that a run needs to be resumed.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Learner steps taken.
    pub step: u64,
    /// The version of the critic in service.
    pub version: CriticVersion,
    /// The weights of the learner's critic.
    pub critic: CriticWeights,
    /// The weights of the critic in service; none while that is the base model.
    pub served: Option<CriticWeights>,
    /// The optimizer's moments. Their order is not kept: they are read back sorted by name.
    pub optimizer: Vec<NamedTensor>,
    /// Replay, ledger, counters and other plain data.
    pub state: serde_json::Value,
    /// The resolved config, as TOML.
    pub config: String,
}
