//! What the files hold, and the names of a run's files.

use crate::types::log_prob::is_log_prob;
use crate::types::{Completion, CritiqueGroup, ModelId};
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

/// What is wrong with a group that was read, if anything is: a learner divides by its lengths and indexes by its preferences.
pub(super) fn complaint(group: &CritiqueGroup) -> Option<String> {
    let count = group.critiques.len();
    if count < 2 {
        return Some(format!("expected at least two critiques, got {count}"));
    }
    if group.prefix_ids.is_empty() {
        return Some("expected the ids of the prompt in prefix_ids, got none".to_owned());
    }
    for (index, critique) in group.critiques.iter().enumerate() {
        let Completion { ids, log_probs, .. } = &critique.completion;
        if ids.is_empty() || ids.len() != log_probs.len() {
            let (ids, log_probs) = (ids.len(), log_probs.len());
            return Some(format!(
                "critique {index}: expected a log-prob for each id, got {ids} ids and {log_probs} log-probs"
            ));
        }
        if let Some(log_prob) = log_probs.iter().find(|log_prob| !is_log_prob(**log_prob)) {
            return Some(format!("critique {index}: expected log-probs of at most 0, got {log_prob}"));
        }
        if !(0.0..=1.0).contains(&critique.utility) {
            return Some(format!("critique {index}: expected a utility from 0 to 1, got {}", critique.utility));
        }
    }
    let wrong = |chosen: usize, rejected: usize| chosen >= count || rejected >= count || chosen == rejected;
    let preference = group.preferences.iter().find(|preference| wrong(preference.chosen, preference.rejected))?;
    Some(format!(
        "preferences: expected two of {count} critiques, got {} over {}",
        preference.chosen, preference.rejected
    ))
}
