//! What a record holds, and the names of a run's files.

use crate::types::{CriticVersion, CritiqueTree, DropReason, EpisodeId, EpisodeTree, FinishReason, Prompt, Verdict};
use serde::{Deserialize, Serialize};

/// A run's records, within its directory.
pub const FILE: &str = "episodes.jsonl";
/// The records before those in [`FILE`], if they were too many for one file.
pub const EARLIER_FILE: &str = "episodes.1.jsonl";

/// Tokens of a critique that are kept with their log-probabilities.
const TOKENS_MAX: usize = 2048;
/// What JSON shows for a probability of 0.
const LOG_PROB_MIN: f32 = -9999.0;
/// Log-probabilities are rounded to this part of a nat: nobody sees more, and a line is half as long.
const LOG_PROB_PARTS: f32 = 1000.0;

/// One line of a file: an episode's tree and how it ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpisodeRecord {
    /// The episode.
    pub id: EpisodeId,
    /// When it ended, in milliseconds since 1970.
    pub time: u64,
    /// How long it took, in seconds.
    pub seconds: f32,
    /// How it ended.
    pub end: Ending,
    /// Why it was dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<DropReason>,
    /// The prompt.
    pub prompt: PromptRecord,
    /// The response; none if the generator wrote none.
    pub response: Option<String>,
    /// The critiques in the order they were requested.
    pub critiques: Vec<CritiqueRecord>,
}

/// How an episode ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// With a group to learn from.
    Kept,
    /// With a group in which there is nothing to learn.
    ZeroVariance,
    /// Without a group.
    Dropped,
}

/// A prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PromptRecord {
    /// Its id in the prompt file.
    pub id: String,
    /// Its task.
    pub task: String,
    /// The user's text.
    pub text: String,
    /// The correct answer, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
}

/// A critique, with what it led to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CritiqueRecord {
    /// The critic that wrote it.
    pub version: CriticVersion,
    /// Its text.
    pub text: String,
    /// Why it ended.
    pub finish: FinishReason,
    /// Critique utility (CU), in `[0, 1]`; none if no verdict is valid.
    pub utility: Option<f32>,
    /// Why it was left out of its group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<DropReason>,
    /// Its refinements.
    pub refinements: Vec<RefinementRecord>,
    /// The text that each of its first tokens adds. A special token has its name.
    pub tokens: Vec<String>,
    /// Log-probability of each of those tokens (nats).
    pub log_probs: Vec<f32>,
    /// Tokens after those.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tokens_left_out: usize,
}

/// A refinement and the verdicts on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RefinementRecord {
    /// Its text.
    pub text: String,
    /// One verdict; two from a judge that was asked in both orders: with the response shown first, then with the refinement
    /// shown first.
    pub verdicts: Vec<Verdict>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl EpisodeRecord {
    /// The record of `tree`; `split` gives the text that each token of a critique adds.
    pub(super) fn new(
        id: EpisodeId,
        (time, seconds): (u64, f32),
        (end, why): (Ending, Option<DropReason>),
        tree: EpisodeTree,
        split: impl Fn(&[u32]) -> Vec<String>,
    ) -> Self {
        let EpisodeTree { prompt, response, critiques } = tree;
        let critiques = critiques.into_iter().map(|critique| CritiqueRecord::new(critique, &split)).collect();
        Self { id, time, seconds, end, why, prompt: PromptRecord::new(&prompt), response, critiques }
    }

    /// Its texts: prompt, response, critiques, refinements.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        let critiques = self.critiques.iter().flat_map(|critique| {
            let refined = critique.refinements.iter().map(|refinement| refinement.text.as_str());
            std::iter::once(critique.text.as_str()).chain(refined)
        });
        std::iter::once(self.prompt.text.as_str()).chain(self.response.as_deref()).chain(critiques)
    }
}

impl PromptRecord {
    fn new(prompt: &Prompt) -> Self {
        let Prompt { id, task, text, answer, .. } = prompt.clone();
        Self { id, task, text, answer }
    }
}

impl CritiqueRecord {
    fn new(tree: CritiqueTree, split: impl Fn(&[u32]) -> Vec<String>) -> Self {
        let CritiqueTree { completion, refinements, verdicts, utility, dropped } = tree;
        let kept = completion.ids.len().min(TOKENS_MAX).min(completion.log_probs.len());
        // Adding 0 makes -0 a 0.
        let round = |log_prob: &f32| (log_prob.max(LOG_PROB_MIN) * LOG_PROB_PARTS).round() / LOG_PROB_PARTS + 0.0;
        // A judge that gave no answer in time is recorded with one verdict for each refinement.
        let each = if verdicts.len() == 2 * refinements.len() { 2 } else { 1 };
        let mut verdicts = verdicts.chunks(each);
        let refinement =
            |text| RefinementRecord { text, verdicts: verdicts.next().map(<[_]>::to_vec).unwrap_or_default() };
        Self {
            version: completion.version,
            text: completion.text.clone(),
            finish: completion.finish,
            utility,
            dropped,
            refinements: refinements.into_iter().map(refinement).collect(),
            tokens: split(&completion.ids[..kept]),
            log_probs: completion.log_probs[..kept].iter().map(round).collect(),
            tokens_left_out: completion.ids.len() - kept,
        }
    }

    /// Its verdicts, refinement by refinement.
    pub fn verdicts(&self) -> impl Iterator<Item = Verdict> {
        self.refinements.iter().flat_map(|refinement| refinement.verdicts.iter().copied())
    }
}
