//! One layer of the score pass, forward and backward.
//!
//! The forward pass keeps what the backward pass needs: the inputs of what is not linear, and the adapter's inner rows.
//! What is cheap (norms, the gated product) is computed again. Gradients of weights are computed only where they are
//! trained.

mod backward;
mod context;
mod forward;
mod linear;
mod rotation;
mod tape;

pub(super) use context::LayerContext;
pub(super) use tape::{LayerTape, tape_floats, working_floats};
