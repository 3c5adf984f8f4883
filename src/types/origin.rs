//! Who asks for a text.

use super::label::Label;

/// Who asks. Where both have work, each gets its share of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// The node's own rollouts, judgements and evaluations.
    #[default]
    Rollout,
    /// A client of the HTTP API.
    Http,
}

impl Origin {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Rollout, Self::Http];

    /// The one that is not `self`.
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Rollout => Self::Http,
            Self::Http => Self::Rollout,
        }
    }
}

impl Label for Origin {
    const KEY: &'static str = "origin";
    const ALL: &'static [Self] = &Self::BOTH;
    fn value(self) -> &'static str {
        match self {
            Self::Rollout => "rollout",
            Self::Http => "http",
        }
    }
}
