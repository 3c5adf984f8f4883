//! Limits of the engine, as `[engine]` of the config names them.

use crate::kernels::{KvKind, KvPrecision, Precision};
use serde::{Deserialize, Serialize};

/// Limits of the engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineConfig {
    /// Tokens of one step: decodes first, the rest goes to waiting prefills.
    pub step_tokens_max: usize,
    /// Sequences that decode at once.
    pub sequences_max: usize,
    /// Longest prompt and completion together, in tokens.
    pub context_tokens_max: usize,
    /// Memory of the KV cache, in MiB.
    pub kv_cache_mib: usize,
    /// Critics that are resident at once beside the one in service: candidates, and versions that clients ask for by name.
    pub versions_max: usize,
    /// How the decode pass keeps the weights.
    pub weights: Precision,
    /// How the KV cache keeps keys and values.
    pub kv: KvPrecision,
}

impl EngineConfig {
    /// What the KV cache stores on the CPU.
    pub fn kv_kind(&self) -> KvKind {
        self.kv.kind(self.weights)
    }
}
