//! What the passes of `dense` cost on a GPU, by the arithmetic of a model's sizes: bytes held and operations issued.
//!
//! Nothing here touches a device or reads a weight. The operations follow `dense` line by line ([`operations`] the pieces of
//! `dense::ops`, [`passes`] the two passes), so that whoever changes one changes the other.

pub(crate) mod memory;
pub(crate) mod operations;
pub(crate) mod passes;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
