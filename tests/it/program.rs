//! The program as its user meets it.

mod bench;
mod cli;
mod eval;
mod export;
mod offline;
mod refusals;
