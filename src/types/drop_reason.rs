//! Why a critique or an episode is left out.

use serde::{Deserialize, Serialize};

/// Why a critique or an episode was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DropReason {
    /// The generator or the critic did not answer in time.
    Deadline,
    /// A prompt did not fit into the context.
    TooLong,
    /// The chat template or the tokenizer refused a text.
    Refused,
    /// A remote server gave no answer.
    Remote,
    /// No refinement of the critique got a valid verdict.
    NoVerdict,
    /// Fewer than two critiques were left.
    FewCritiques,
}

impl DropReason {
    /// The reason in a few words, after a number: `3 too long`.
    pub fn words(self) -> &'static str {
        match self {
            Self::Deadline => "past the deadline",
            Self::TooLong => "too long",
            Self::Refused => "refused",
            Self::Remote => "without an answer of the server",
            Self::NoVerdict | Self::FewCritiques => "without verdicts",
        }
    }
}
