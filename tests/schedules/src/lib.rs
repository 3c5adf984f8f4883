//! The thread pool's, the device's and the journal's own files, run under an explorer of schedules.
//!
//! `build.rs` copies them with threads, locks and atomics replaced. The explorer runs one thread at a time and chooses
//! at each operation on these who goes on, so it finds wrong results, deadlocks and endless waits of an interleaving. It
//! knows sequential consistency only, and no more is asked here than that. The tests are in `pool.rs`, `device.rs`
//! and `journal.rs`.

#![cfg(test)]
// The node's door of the device names what no test here needs.
#![allow(unused_imports)]

mod doubles;
mod explore;
mod replaced;

use doubles::{engine, formats, groups, learner, transformer, types};

include!(concat!(env!("OUT_DIR"), "/modules.rs"));
