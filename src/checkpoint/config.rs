//! The `checkpoint` section of the config.

use serde::{Deserialize, Serialize};

/// Which checkpoints are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointConfig {
    /// Checkpoints kept on disk beside the newest one.
    pub keep: usize,
    /// A checkpoint is written once learner steps have been without one for this long, in seconds; 0 for never.
    pub every_seconds: u64,
    /// Whether the best checkpoint so far is kept too.
    pub keep_best: KeepBest,
    /// Scored groups kept on disk, in MiB; up to twice as much while a file fills up. 0 keeps none.
    pub groups_mib: u64,
}

/// The measure of the best checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeepBest {
    /// No checkpoint is the best.
    #[default]
    None,
    /// Critique utility on held-out prompts.
    Cu,
}

impl CheckpointConfig {
    /// All that is wrong with it. Every number is valid, so this is always empty.
    pub fn complaints(&self) -> Vec<String> {
        Vec::new()
    }
}
