//! What operators ask of the swap actor, and what they are answered.

use crate::run::critics::{self, CriticState};
use crate::types::CriticVersion;
use crate::types::splitmix::mix64;
use std::path::PathBuf;

/// What an operator asks to be put into service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offer {
    /// The folder of a checkpoint or of a PEFT adapter.
    Folder(PathBuf),
    /// A version of the registry.
    Version(CriticVersion),
}

/// What an offer passes before it is in service.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Checks {
    /// Whether it passes the canary.
    pub canary: bool,
    /// Share of the episodes that it is tried on; 0 for none.
    pub share: f64,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct SwapOutcome {
    /// The version.
    pub version: CriticVersion,
    /// Its state now.
    pub state: CriticState,
    /// Why.
    pub why: String,
}

/// Why a request was not done; the critic in service is the one before.
#[derive(Debug, thiserror::Error)]
pub enum SwapError {
    /// Another candidate is on trial.
    #[error("critic {0} is on trial: expected one candidate at a time")]
    Busy(CriticVersion),
    /// A version is pinned.
    #[error("critic {0} is pinned: unpin it first")]
    Pinned(CriticVersion),
    /// It did not pass the gate: its files cannot be used.
    #[error("refused: {0}")]
    Refused(String),
    /// It did not pass the canary.
    #[error("critic {version} was rejected: {why}")]
    Rejected {
        /// The version that it was given.
        version: CriticVersion,
        /// Why.
        why: String,
    },
    /// The registry does not have what was asked for.
    #[error(transparent)]
    Registry(#[from] critics::Error),
    /// There is no version to go back to.
    #[error("critic {0} has no parent to go back to")]
    NoParent(CriticVersion),
}

/// A share of the episodes whose critiques a candidate writes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    /// The candidate.
    pub version: CriticVersion,
    /// The share.
    pub share: f64,
}

impl Share {
    /// Whether the episode whose critic draws by `seed` is among them.
    pub fn takes(&self, seed: u64) -> bool {
        let lot = mix64(seed ^ 0x7363_6861_7265_7331) >> 11;
        (lot as f64 / (1u64 << 53) as f64) < self.share
    }
}
