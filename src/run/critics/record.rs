//! A line of the registry's file.

use super::entry::{Change, CriticEntry, CriticState};
use super::scores::Scores;
use crate::types::CriticVersion;
use serde::{Deserialize, Serialize};

/// A line of the registry's file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Record {
    /// A critic was registered.
    Added(Box<CriticEntry>),
    /// A critic that is not in service has another state.
    Changed { version: CriticVersion, change: Change },
    /// A critic went into service; the one before it has the state `before`.
    Served { version: CriticVersion, change: Change, before: CriticState },
    /// The critic in service stays in service, or no longer does.
    Pinned { version: Option<CriticVersion>, by: String, at: u64 },
    /// What a critic has earned so far.
    Scored { version: CriticVersion, scores: Scores },
    /// A critic was evaluated on held-out prompts.
    Evaluated { version: CriticVersion, cu: f64 },
    /// A critic's weights are no longer kept.
    Forgotten { version: CriticVersion },
}
