//! What decides about a critic that is offered for service.

use super::label::Label;

/// What decided about a critic that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SwapReason {
    /// The learner published it.
    Learner,
    /// An operator asked for it.
    Operator,
    /// It appeared in the watched folder.
    Watch,
    /// Its files cannot be used.
    Gate,
    /// Its canary.
    Canary,
    /// The groups of its trial.
    Trial,
    /// The one before it earned more.
    Utility,
}

impl Label for SwapReason {
    const KEY: &'static str = "reason";
    const ALL: &'static [Self] =
        &[Self::Learner, Self::Operator, Self::Watch, Self::Gate, Self::Canary, Self::Trial, Self::Utility];
    fn value(self) -> &'static str {
        match self {
            Self::Learner => "learner",
            Self::Operator => "operator",
            Self::Watch => "watch",
            Self::Gate => "gate",
            Self::Canary => "canary",
            Self::Trial => "trial",
            Self::Utility => "utility",
        }
    }
}
