//! One prompt's tree: who is asked, in which order, and what comes of it.

pub mod eval_runner;
pub mod judge;
pub mod models;
mod observer;
pub mod online_eval;
pub mod role;
pub mod sampling;
pub(crate) mod seed;
