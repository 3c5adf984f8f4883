//! What outlives the actors: run state, checkpoints, events, exit codes. Knows no actor, no device and no role.

pub mod checkpoints;
pub mod events;
pub mod exit;
pub(crate) mod metrics_sink;
pub mod state;
