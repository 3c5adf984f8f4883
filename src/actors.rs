//! The runtime: thin ractor actors around the rooms, and the supervisor that restarts them.
//!
//! Read `actors/learner.rs` for the learner's loop and `actors/supervisor.rs` for the runtime; the algorithm of an episode
//! is in `episode`.
//!
//! Invariants: data moves between actors by [`ask()`] alone, so every request has a deadline and an answer; nothing is
//! registered by name in ractor (several nodes may run in one process); a background task is part of its actor's state
//! and is dropped with it.

pub mod ask;
pub mod control;
pub mod device;
pub mod failure;
pub mod gates;
pub mod judge;
pub mod learner;
mod on_disk;
pub mod publish;
pub mod refusals;
pub mod replay;
pub mod role;
pub mod rollout;
pub mod run_context;
pub mod supervisor;
pub mod swap;
pub mod task;
mod tree;
pub mod tuning;

pub use ask::{Reply, Unanswered, ask};
pub use failure::Failure;

use failure::dependency_lost;
