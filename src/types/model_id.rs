//! Which model token ids and weights belong to: its source, and the digest of its files.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The identity of a model. Two models are the same if their digests are.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ModelId {
    /// The name or source, for people.
    pub name: String,
    /// The digest of the files, in hexadecimal digits; see [`crate::formats::source::digest`].
    pub sha256: String,
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (sha256 {})", self.name, self.sha256)
    }
}
