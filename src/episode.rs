//! Episodes: the tree of one prompt, its roles and judges, and evaluation runs.
//!
//! [`tree`] holds the algorithm. This module knows no actor and no learner.

pub mod canary;
pub mod critique;
pub mod eval_runner;
pub mod judge;
pub mod models;
mod observer;
pub mod online_eval;
pub mod role;
mod sample_error;
pub mod sampling;
pub(crate) mod seed;
pub(crate) mod text_work;
pub mod trace;
pub mod tree;
