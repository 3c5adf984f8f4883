//! What outlives the actors: run state, journal, checkpoints, events, exit codes. Knows no actor, no device and no role.

pub mod checkpoints;
pub mod critics;
pub mod events;
pub mod exit;
pub(crate) mod figures;
pub mod jobs;
pub mod journal;
pub mod memory;
pub(crate) mod metrics_sink;
mod outcome;
pub mod state;
pub(crate) mod storage;
