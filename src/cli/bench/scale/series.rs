//! What grows in `bench scale`, what is measured of it, and the names of both.

use clap::ValueEnum;
use serde::Serialize;

/// A group of series, as `--only` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Group {
    /// Sequences that decode at once.
    Sequences,
    /// Tokens of a prompt: prefill, and decoding behind it.
    Context,
    /// N and M of an episode.
    Tree,
    /// Threads that compute.
    Threads,
    /// Parameters of the models.
    Model,
}

/// One quantity as it grows with another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Series {
    Sequences,
    ContextPrefill,
    ContextDecode,
    TreeN,
    TreeM,
    Threads,
    Model,
}

impl Series {
    pub(super) const ALL: [Self; 7] = [
        Self::Sequences,
        Self::ContextPrefill,
        Self::ContextDecode,
        Self::TreeN,
        Self::TreeM,
        Self::Threads,
        Self::Model,
    ];

    pub(super) fn group(self) -> Group {
        match self {
            Self::Sequences => Group::Sequences,
            Self::ContextPrefill | Self::ContextDecode => Group::Context,
            Self::TreeN | Self::TreeM => Group::Tree,
            Self::Threads => Group::Threads,
            Self::Model => Group::Model,
        }
    }

    /// What is measured.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Sequences => "decoding, by sequences at once",
            Self::ContextPrefill => "prefill, by tokens of the prompt",
            Self::ContextDecode => "decoding one sequence, by tokens before it",
            Self::TreeN => "an episode, by N (critiques)",
            Self::TreeM => "an episode, by M (refinements of each)",
            Self::Threads => "decoding, by threads",
            Self::Model => "decoding, by parameters of the model",
        }
    }

    /// What the sizes count.
    pub(super) fn size(self) -> &'static str {
        match self {
            Self::Sequences => "sequences",
            Self::ContextPrefill | Self::ContextDecode => "context tokens",
            Self::TreeN => "N",
            Self::TreeM => "M",
            Self::Threads => "threads",
            Self::Model => "parameters",
        }
    }

    /// The unit of the values.
    pub(super) fn unit(self) -> &'static str {
        if self.is_time() { "seconds" } else { "tokens/s" }
    }

    /// Whether less is better.
    pub(super) fn is_time(self) -> bool {
        self.group() == Group::Tree
    }
}
