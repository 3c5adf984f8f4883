//! A critic prepared for the decode pass: an adapter beside the base's weights, or weights that replace them.

use crate::transformer::error::Result;
use crate::transformer::prepared::Prepared;
use std::any::Any;

/// A critic in the layout of one backend; [`Transformer::pack`](crate::transformer::Transformer::pack) makes one.
#[derive(Debug)]
pub struct PackedAdapter {
    prepared: Prepared,
    replaces_base: bool,
    bytes: usize,
}

impl PackedAdapter {
    /// An adapter of `bytes` bytes in a backend's layout.
    pub(in crate::transformer) fn beside_base<T: Any + Send + Sync>(layout: T, bytes: usize) -> Self {
        Self { prepared: Prepared::new(layout), replaces_base: false, bytes }
    }

    /// A full weight set of `bytes` bytes in a backend's layout.
    pub(in crate::transformer) fn replacing_base<T: Any + Send + Sync>(layout: T, bytes: usize) -> Self {
        Self { prepared: Prepared::new(layout), replaces_base: true, bytes }
    }

    /// Its size in memory, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the pass reads the critic's own weights and not the base's.
    pub(crate) fn replaces_base(&self) -> bool {
        self.replaces_base
    }

    /// The critic as a backend laid it out; an error where it was packed for another backend.
    pub(in crate::transformer) fn layout<T: Any>(&self) -> Result<&T> {
        self.prepared.get()
    }

    /// An adapter that changes nothing, for tests that need only its identity.
    #[cfg(test)]
    pub(crate) fn without_factors() -> Self {
        Self::beside_base((), 0)
    }
}
