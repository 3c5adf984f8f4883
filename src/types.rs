//! Domain types: what passes between rooms.
//!
//! A prompt becomes a response, critiques of it, refinements of it and verdicts on those. The mean preference is a
//! critique's utility, and the critiques of one response with their utilities are the group that the learner trains on.
//! This file knows no tensor, no actor and no disk.
//!
//! Invariants: a critique carries the version of the critic that wrote it; a failed judgement is invalid and never a loss;
//! a utility over no valid verdict does not exist.

use serde::{Deserialize, Serialize};
use verifier::Verifier;

pub mod actor_kind;
pub(crate) mod brief;
mod drop_reason;
mod engine_load;
pub mod label;
pub(crate) mod log_prob;
mod model_id;
mod origin;
pub(crate) mod pattern;
pub mod role;
pub(crate) mod splitmix;
mod swap_reason;
pub mod thoughts;
mod tree;
pub mod unix_time;
pub mod verifier;

pub use actor_kind::ActorKind;
pub use drop_reason::DropReason;
pub use engine_load::EngineLoad;
pub use label::Label;
pub use model_id::ModelId;
pub use origin::Origin;
pub use role::Role;
pub use swap_reason::SwapReason;
pub use tree::{CritiqueTree, EpisodeTree};

/// A prompt, as the node's own files have it. `prompts` reads files of other forms too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prompt {
    /// Unique within its file.
    pub id: String,
    /// Its task family, such as `arithmetic`.
    pub task: String,
    /// The user's text; for a conversation of several turns, all of it as one text, for roles that are asked about it.
    #[serde(rename = "prompt")]
    pub text: String,
    /// The turns of a conversation, the user's last; empty where the text is the only turn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub turns: Vec<Turn>,
    /// The correct answer, if the task has one that can be checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// How answers are checked; without it, as a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verifier: Option<Verifier>,
}

/// One turn of a conversation, as chat templates expect it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// `system`, `user` or `assistant`.
    pub role: ChatRole,
    /// Its text.
    pub content: String,
}

impl Turn {
    /// A turn of `role` with the text `content`.
    pub fn new(role: ChatRole, content: impl Into<String>) -> Self {
        Self { role, content: content.into() }
    }
}

/// The role of a [`Turn`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChatRole {
    /// Instructions before the conversation.
    System,
    /// The user.
    User,
    /// The model.
    Assistant,
}

/// Which critic wrote a text: 0 is the base model (the reference), 1 the first published adapter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CriticVersion(pub u64);

impl CriticVersion {
    /// The base model: no adapter.
    pub const BASE: Self = Self(0);

    /// How many versions were published after this one, up to `newest`.
    pub fn age(self, newest: Self) -> u64 {
        newest.0.saturating_sub(self.0)
    }
}

impl std::fmt::Display for CriticVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "v{}", self.0)
    }
}

/// Position of an episode in the endless prompt stream, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EpisodeId(pub u64);

impl std::fmt::Display for EpisodeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// A stop token or a stop string was generated.
    Stop,
    /// It reached the limit of new tokens or of the context.
    Length,
}

/// A text that a model generated, with the ids that were sampled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    /// The decoded text, without stop token or stop string.
    pub text: String,
    /// The sampled ids, including a final stop token.
    pub ids: Vec<u32>,
    /// Log-probability of each id under the distribution it was sampled from (nats).
    pub log_probs: Vec<f32>,
    /// The critic version whose adapter was on; `BASE` for every other role.
    pub version: CriticVersion,
    /// Why it ended.
    pub finish: FinishReason,
}

/// The judge's verdict on a refinement compared with the response it refines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The refinement is preferred.
    Win,
    /// Neither is.
    Tie,
    /// The response is preferred.
    Loss,
    /// There is no judgement. The reason is counted and the verdict is left out.
    Invalid(Invalid),
}

/// Why there is no judgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Invalid {
    /// The judge's text contained no verdict.
    Unreadable,
    /// The judge did not answer in time.
    Deadline,
    /// The checker itself failed.
    Checker,
    /// The judge's prompt does not fit its context.
    TooLong,
    /// The chat template or the tokenizer refused the judge's prompt.
    Refused,
    /// The remote judge gave no complete answer.
    Remote,
    /// The other order yielded no verdict, and this one alone would carry the judge's position bias.
    Unpaired,
}

impl Verdict {
    /// The preference score PS of RCO (arXiv 2506.22157, section 3): 1, 0.5 or 0; none if invalid.
    pub fn preference(self) -> Option<f32> {
        match self {
            Self::Win => Some(1.0),
            Self::Tie => Some(0.5),
            Self::Loss => Some(0.0),
            Self::Invalid(_) => None,
        }
    }

    /// The verdict with the two texts exchanged.
    pub fn swapped(self) -> Self {
        match self {
            Self::Win => Self::Loss,
            Self::Loss => Self::Win,
            other => other,
        }
    }
}

/// A judge's choice between two texts shown in one order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Choice {
    /// The first text is better.
    A,
    /// The second text is better.
    B,
    /// Neither is.
    Tie,
}

impl Choice {
    /// The same choice with the texts exchanged.
    pub fn swapped(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
            Self::Tie => Self::Tie,
        }
    }
}

/// Critique utility CU (RCO, eq. 2): the mean preference score of a critique's refinements over the
/// valid verdicts, in `[0, 1]`; `None` if no verdict is valid.
pub fn utility(verdicts: &[Verdict]) -> Option<f32> {
    let (sum, count) =
        verdicts.iter().filter_map(|v| v.preference()).fold((0.0, 0u32), |(sum, count), p| (sum + p, count + 1));
    (count > 0).then(|| sum / count as f32)
}

/// One critique with its utility.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoredCritique {
    /// What the critic wrote.
    #[serde(rename = "written")]
    pub completion: Completion,
    /// Critique utility, in `[0, 1]`.
    pub utility: f32,
    /// The verdicts that the utility is the mean of, including invalid ones.
    pub verdicts: Vec<Verdict>,
}

/// The judge's direct preference between two critiques of one group, by their indices in it: what DPCO trains on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preference {
    /// The critique that is preferred.
    pub chosen: usize,
    /// The other.
    pub rejected: usize,
}

/// The training objective.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Objective {
    /// RCO (arXiv 2506.22157): the critiques' utilities.
    #[default]
    Rco,
    /// DPCO, RCO's baseline: the judge's preferences between critiques.
    Dpco,
}

/// The critiques of one (prompt, response) with their utilities: the unit of replay and of learning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CritiqueGroup {
    /// The episode it came from. Identifies the group: an episode makes at most one.
    pub episode: EpisodeId,
    /// The prompt's own id.
    pub prompt_id: String,
    /// The prompt's task.
    pub task: String,
    /// The critic's whole prompt as ids; every critique of the group follows it.
    pub prefix_ids: Vec<u32>,
    /// At least two, in the order they were requested.
    pub critiques: Vec<ScoredCritique>,
    /// The judge's direct preferences between them; empty if it was not asked.
    #[serde(default)]
    pub preferences: Vec<Preference>,
}

impl CritiqueGroup {
    /// True where there is nothing to learn by `objective`: all utilities are equal, or there is no preference (or one
    /// between critiques that are not there).
    pub fn is_zero_variance(&self, objective: Objective) -> bool {
        let count = self.critiques.len();
        let between_two = |p: &Preference| p.chosen < count && p.rejected < count && p.chosen != p.rejected;
        match objective {
            Objective::Rco => self.critiques.windows(2).all(|pair| pair[0].utility == pair[1].utility),
            Objective::Dpco => self.preferences.is_empty() || !self.preferences.iter().all(between_two),
        }
    }

    /// The oldest critic version among its critiques.
    pub fn oldest_version(&self) -> CriticVersion {
        self.critiques.iter().map(|c| c.completion.version).min().unwrap_or_default()
    }

    /// Mean utility of its critiques.
    pub fn mean_utility(&self) -> f32 {
        self.critiques.iter().map(|c| c.utility).sum::<f32>() / self.critiques.len().max(1) as f32
    }
}

/// What became of a group that was pushed to the replay buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It was accepted and waits to be learned; if it was too old already, it was retired at once.
    Kept,
    /// All its utilities are equal, or no critique is preferred: there is nothing to learn by the run's objective. It is
    /// left out, and its episode remembered.
    ZeroVariance,
    /// Its episode was pushed before; nothing changed.
    Duplicate,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_verdict_is_left_out_and_never_a_loss() {
        let bad = Verdict::Invalid(Invalid::Unreadable);
        assert_eq!(utility(&[Verdict::Win, bad]), Some(1.0));
        assert_eq!(utility(&[Verdict::Win, Verdict::Tie, Verdict::Loss, Verdict::Loss]), Some(0.375));
        assert_eq!(utility(&[bad, bad]), None);
        assert_eq!(utility(&[]), None);
    }

    #[test]
    fn swapping_sides_mirrors_the_preference() {
        for verdict in [Verdict::Win, Verdict::Tie, Verdict::Loss] {
            let there = verdict.preference().expect("a valid verdict has a preference");
            let back = verdict.swapped().preference().expect("its mirror is valid");
            assert_eq!(there + back, 1.0);
        }
    }
}
