//! What the CPU computes with its own kernels.

pub(crate) mod attention;
