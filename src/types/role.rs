//! The roles that write or judge texts.

use super::label::Label;

/// A role of an episode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Writes responses.
    Generator,
    /// Writes critiques.
    Critic,
    /// Writes refinements.
    Refiner,
    /// Compares.
    Judge,
}

impl Label for Role {
    const KEY: &'static str = "role";
    const ALL: &'static [Self] = &[Self::Generator, Self::Critic, Self::Refiner, Self::Judge];
    fn value(self) -> &'static str {
        match self {
            Self::Generator => "generator",
            Self::Critic => "critic",
            Self::Refiner => "refiner",
            Self::Judge => "judge",
        }
    }
}
