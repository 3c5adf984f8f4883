//! What the engines hold after a step.

/// What the engines hold.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EngineLoad {
    /// Sequences that decode or prefill.
    pub running: usize,
    /// Sequences that wait.
    pub waiting: usize,
    /// Largest share of the KV blocks in use of any engine, in `[0, 1]`.
    pub kv_usage: f64,
    /// KV blocks that were used at least once, in bytes.
    pub kv_bytes: usize,
    /// Critic versions whose weights are in memory.
    pub versions_alive: usize,
    /// Their size, in bytes.
    pub versions_bytes: usize,
}
