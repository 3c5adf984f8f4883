//! One binary for every integration test: it links once.
#![allow(clippy::unwrap_used, clippy::print_stderr, missing_docs, unreachable_pub)]

mod bench;
mod cli;
mod common;
mod docs;
mod engine;
mod eval;
mod export;
mod families;
mod judges;
mod learns;
mod loop_common;
mod objectives;
mod offline;
mod parity;
mod passes;
mod real_families;
mod real_server;
mod refusals;
mod remote;
mod resume;
mod rigged;
mod smollm2;
mod survives;
mod theorem;
mod tidy;
mod tokenizer;
mod whole;
