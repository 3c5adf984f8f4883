//! One binary for every integration test: it links once. A module a promise, what they share in `support`.
#![allow(clippy::unwrap_used, clippy::print_stderr, missing_docs, unreachable_pub)]

mod durability;
mod house;
mod http;
mod judging;
mod learning;
pub mod numbers;
mod operating;
mod program;
mod seeing;
mod support;
mod viewing;
