//! What lists show of an episode, and what they are filtered by.

use super::record::{CritiqueRecord, Ending, EpisodeRecord};
use crate::types::{CriticVersion, DropReason, EpisodeId, Verdict};
use serde::{Deserialize, Serialize};

/// Characters of a prompt in a list.
const PROMPT_CHARS_MAX: usize = 160;

/// An episode in a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpisodeSummary {
    /// The episode.
    pub id: EpisodeId,
    /// When it ended, in milliseconds since 1970.
    pub time: u64,
    /// How it ended.
    pub end: Ending,
    /// Why it was dropped.
    pub why: Option<DropReason>,
    /// The prompt's id.
    pub prompt_id: String,
    /// The prompt's task.
    pub task: String,
    /// The beginning of the prompt.
    pub prompt: String,
    /// The critiques in the order they were requested.
    pub critiques: Vec<CritiqueSummary>,
    /// Verdicts that are invalid.
    pub invalid: usize,
}

/// A critique in a list.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CritiqueSummary {
    /// The critic that wrote it.
    pub version: CriticVersion,
    /// Critique utility (CU), in `[0, 1]`; none if no verdict is valid.
    pub cu: Option<f32>,
}

impl EpisodeSummary {
    /// The summary of `record`.
    pub fn of(record: &EpisodeRecord) -> Self {
        let is_invalid = |verdict: &Verdict| verdict.preference().is_none();
        Self {
            id: record.id,
            time: record.time,
            end: record.end,
            why: record.why,
            prompt_id: record.prompt.id.clone(),
            task: record.prompt.task.clone(),
            prompt: record.prompt.text.chars().take(PROMPT_CHARS_MAX).collect(),
            critiques: record.critiques.iter().map(CritiqueSummary::of).collect(),
            invalid: record.critiques.iter().flat_map(CritiqueRecord::verdicts).filter(is_invalid).count(),
        }
    }

    /// Whether something in it is invalid or was left out: a verdict, a critique, the episode.
    pub fn has_invalid(&self) -> bool {
        self.invalid > 0 || self.end == Ending::Dropped || self.critiques.iter().any(|critique| critique.cu.is_none())
    }

    /// Mean critique utility over the critiques that have one.
    pub fn cu_mean(&self) -> Option<f32> {
        let valid: Vec<f32> = self.critiques.iter().filter_map(|critique| critique.cu).collect();
        (!valid.is_empty()).then(|| valid.iter().sum::<f32>() / valid.len() as f32)
    }
}

impl CritiqueSummary {
    fn of(critique: &CritiqueRecord) -> Self {
        let cu = critique.utility.filter(|_| critique.dropped.is_none());
        Self { version: critique.version, cu }
    }
}
