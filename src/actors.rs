//! The runtime: thin ractor shells around the rooms, and the tree that keeps them up.
//!
//! Whoever wants the algorithm reads `actors/rollout.rs` (an episode) and `actors/learner.rs` (the
//! learner's course); whoever wants the runtime reads `actors/supervisor.rs`; nobody must read both.
//!
//! Invariants: goods move by [`ask`] alone, so every message that matters has a deadline and an answer;
//! nothing is named in ractor's registry (several nodes may live in one process); whatever a shell does
//! in the background lives in its state and dies with it.

pub mod ask;
pub mod device;
pub mod failure;
pub mod judge;
pub mod learner;
pub mod replay;
pub mod role;
pub mod rollout;
pub mod run_context;
pub mod stop;
pub mod supervisor;
pub mod task;
mod tree;

pub use ask::{Reply, Unanswered, ask};
pub use failure::Failure;
pub use stop::Stop;

use failure::dependency_lost;
