//! One prompt's tree: the episode, the roles and judges it asks, and evaluation runs.
//!
//! [`tree`] tells the algorithm once. The room knows no actor and no learner.

pub mod eval_runner;
pub mod judge;
pub mod models;
mod observer;
pub mod online_eval;
pub mod role;
pub mod sampling;
pub(crate) mod seed;
pub mod tree;
