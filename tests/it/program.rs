//! The program as its user meets it.

mod bench;
mod card;
mod cli;
mod ends;
mod eval;
mod export;
mod gpu_plan;
mod malformed;
mod offline;
mod refusals;
mod sandbox;
mod start;
mod terminal;
mod verify;
