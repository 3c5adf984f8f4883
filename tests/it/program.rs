//! The program as its user meets it.

mod bench;
mod card;
mod cli;
mod ends;
mod eval;
mod export;
mod malformed;
mod offline;
mod refusals;
mod sandbox;
mod start;
mod terminal;
mod verify;
