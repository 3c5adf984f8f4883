//! What outlives the actors: run state, journal, checkpoints, events, exit codes. Knows no actor, no device and no role.

pub mod checkpoints;
pub mod events;
pub mod exit;
pub mod journal;
pub(crate) mod metrics_sink;
mod outcome;
pub mod state;
