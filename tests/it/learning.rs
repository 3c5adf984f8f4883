//! The critic learns, and learns what the theory says.

mod learns;
mod objectives;
mod theorem;
