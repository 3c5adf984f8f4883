//! Numbers are those of other programs, whichever pass, device form or file they come from.

mod adapters;
mod engine;
mod families;
mod full_weights;
pub mod parity;
pub mod passes;
mod real_families;
mod smollm2;
mod tokenizer;
