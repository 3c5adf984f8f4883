//! What the files hold, and the names of a run's files.

use crate::types::{CritiqueGroup, ModelId};
use serde::{Deserialize, Serialize};

/// A run's groups, within its directory.
pub const FILE: &str = "groups.jsonl";
/// The groups before those in [`FILE`], if they were too many for one file.
pub const EARLIER_FILE: &str = "groups.1.jsonl";

/// One line of a file: a group and the model of its token ids.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordedGroup {
    /// The model that the ids and log-probs belong to.
    pub model: ModelId,
    /// The group.
    pub group: CritiqueGroup,
}

/// The groups of a file or of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Groups {
    /// In the order of recording.
    pub groups: Vec<RecordedGroup>,
    /// Torn lines that were skipped, at most one for each file.
    pub torn: usize,
    /// Groups that were left out, because a later group of the same episode replaces them. A run that was rewound to a
    /// checkpoint writes such groups.
    pub replaced: usize,
}
