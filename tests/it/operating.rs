//! A running node does what its operator asks, and nothing else.

mod learner;
mod listener;
mod meetings;
mod seen;
mod streams;
mod swaps;
