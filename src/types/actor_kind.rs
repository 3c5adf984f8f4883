//! The actors of a node by name, in the order of dependence. Knows none of them.

use super::label::Label;
use super::role::Role;

/// An actor of the node. Their order is the order of dependence: each depends on those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ActorKind {
    /// Owns the device thread.
    Device,
    /// Holds critique groups.
    Replay,
    /// Puts critics into service.
    Swap,
    /// Writes responses.
    Generator,
    /// Writes critiques.
    Critic,
    /// Writes refinements.
    Refiner,
    /// Compares.
    Judge,
    /// Drives learning.
    Learner,
    /// Runs episodes.
    Rollout,
}

impl From<Role> for ActorKind {
    fn from(role: Role) -> Self {
        match role {
            Role::Generator => Self::Generator,
            Role::Critic => Self::Critic,
            Role::Refiner => Self::Refiner,
            Role::Judge => Self::Judge,
        }
    }
}

impl Label for ActorKind {
    const KEY: &'static str = "actor";
    const ALL: &'static [Self] = &[
        Self::Device,
        Self::Replay,
        Self::Swap,
        Self::Generator,
        Self::Critic,
        Self::Refiner,
        Self::Judge,
        Self::Learner,
        Self::Rollout,
    ];
    fn value(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Replay => "replay",
            Self::Swap => "swap",
            Self::Generator => "generator",
            Self::Critic => "critic",
            Self::Refiner => "refiner",
            Self::Judge => "judge",
            Self::Learner => "learner",
            Self::Rollout => "rollout",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actors_stand_in_the_order_of_dependence() {
        assert!(ActorKind::ALL.is_sorted());
        assert_eq!((ActorKind::ALL[0], ActorKind::ALL[8]), (ActorKind::Device, ActorKind::Rollout));
    }
}
