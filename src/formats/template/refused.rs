//! The templates of this process that took too much time or memory: none of them is run again, whoever loads it.
//!
//! Each entry stands for a thread that was left behind, so their number needs no other limit.

use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The digest of a template's source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SourceDigest([u8; 32]);

impl SourceDigest {
    /// That of `source`.
    pub(super) fn of(source: &str) -> Self {
        Self(Sha256::digest(source).into())
    }
}

/// Why each is refused.
static REFUSED: Mutex<BTreeMap<SourceDigest, String>> = Mutex::new(BTreeMap::new());

fn refused() -> MutexGuard<'static, BTreeMap<SourceDigest, String>> {
    REFUSED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why `source` is refused, if it is.
pub(super) fn why(source: SourceDigest) -> Option<String> {
    refused().get(&source).cloned()
}

/// Refuses `source` from now on because of `why`, which is returned.
pub(super) fn remember(source: SourceDigest, why: String) -> String {
    refused().insert(source, why.clone());
    why
}
