//! Which episodes a reader wants to see.

use super::error::{Error, Result};
use super::record::EpisodeRecord;
use super::summary::{CritiqueSummary, EpisodeSummary};
use crate::types::CriticVersion;
use regex::{Regex, RegexBuilder};

/// The longest text to search for, in bytes.
const TEXT_BYTES_MAX: usize = 1024;

/// Which episodes; the default is all.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of this task.
    pub task: Option<String>,
    /// Of the prompt with this id.
    pub prompt_id: Option<String>,
    /// In which something is invalid or was dropped.
    pub is_invalid: bool,
    /// With a critique by this critic.
    pub version: Option<CriticVersion>,
    /// With a critique (by that critic, if one is named) whose CU is at least this.
    pub cu_min: Option<f32>,
    /// ... and at most this.
    pub cu_max: Option<f32>,
    /// With this text in the prompt, the response, a critique or a refinement.
    pub text: Option<TextPattern>,
}

impl Filter {
    /// Whether the episode passes everything but the text.
    pub fn matches(&self, episode: &EpisodeSummary) -> bool {
        self.task.as_ref().is_none_or(|task| *task == episode.task)
            && self.prompt_id.as_ref().is_none_or(|id| *id == episode.prompt_id)
            && (!self.is_invalid || episode.has_invalid())
            && (!self.asks_of_critiques() || episode.critiques.iter().any(|critique| self.matches_critique(critique)))
    }

    fn asks_of_critiques(&self) -> bool {
        self.version.is_some() || self.cu_min.is_some() || self.cu_max.is_some()
    }

    fn matches_critique(&self, critique: &CritiqueSummary) -> bool {
        let is_least = |min: f32| critique.cu.is_some_and(|cu| cu >= min);
        let is_most = |max: f32| critique.cu.is_some_and(|cu| cu <= max);
        self.version.is_none_or(|version| version == critique.version)
            && self.cu_min.is_none_or(is_least)
            && self.cu_max.is_none_or(is_most)
    }
}

/// A text to search for, whatever the case of its letters.
#[derive(Clone, Debug)]
pub struct TextPattern {
    text: Regex,
    /// The same as JSON writes it.
    json: regex::bytes::Regex,
}

impl TextPattern {
    /// The pattern of the text `text` as it is: no character has a meaning of its own.
    ///
    /// # Errors
    /// If it is too long.
    pub fn new(text: &str) -> Result<Self> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(Error::Text { max: TEXT_BYTES_MAX, got: text.len() });
        }
        let quoted = serde_json::to_string(text).expect("a string is always JSON");
        let inner = quoted.strip_prefix('"').and_then(|quoted| quoted.strip_suffix('"')).unwrap_or_default();
        let json = regex::escape(inner);
        Ok(Self {
            text: RegexBuilder::new(&regex::escape(text))
                .case_insensitive(true)
                .build()
                .expect("an escaped text of a bounded length is a small pattern"),
            json: regex::bytes::RegexBuilder::new(&json)
                .case_insensitive(true)
                .build()
                .expect("an escaped text of a bounded length is a small pattern"),
        })
    }

    /// Whether the line of a record may hold it: false only if it does not.
    pub(super) fn may_be_in(&self, line: &[u8]) -> bool {
        self.json.is_match(line)
    }

    /// Whether a text of `record` holds it.
    pub fn is_in(&self, record: &EpisodeRecord) -> bool {
        record.texts().any(|text| self.text.is_match(text))
    }
}
