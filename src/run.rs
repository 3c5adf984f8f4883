//! What outlives the actors: run state, checkpoints, events.

pub mod checkpoints;
pub mod events;
pub(crate) mod metrics_sink;
pub mod state;
