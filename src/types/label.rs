//! Labels: domain enums with a closed set of values, as metrics carry them.
//!
//! The domain's own enums implement [`Label`], so no metric needs an enum that mirrors one. Knows no metric.
//! Invariant: [`Label::ALL`] lists every value once, and [`Label::value`] maps no two of them to the same text.

use super::{Invalid, Pushed, Verdict};

/// A label: a key and a closed set of values.
pub trait Label: Copy + 'static {
    /// The label's name.
    const KEY: &'static str;
    /// Every value.
    const ALL: &'static [Self];
    /// The value as exported.
    fn value(self) -> &'static str;
}

impl Label for Verdict {
    const KEY: &'static str = "verdict";
    const ALL: &'static [Self] = &[
        Self::Win,
        Self::Tie,
        Self::Loss,
        Self::Invalid(Invalid::Unreadable),
        Self::Invalid(Invalid::Deadline),
        Self::Invalid(Invalid::Checker),
        Self::Invalid(Invalid::TooLong),
        Self::Invalid(Invalid::Refused),
        Self::Invalid(Invalid::Remote),
        Self::Invalid(Invalid::Unpaired),
    ];
    fn value(self) -> &'static str {
        match self {
            Self::Win => "win",
            Self::Tie => "tie",
            Self::Loss => "loss",
            Self::Invalid(Invalid::Unreadable) => "invalid_unreadable",
            Self::Invalid(Invalid::Deadline) => "invalid_deadline",
            Self::Invalid(Invalid::Checker) => "invalid_checker",
            Self::Invalid(Invalid::TooLong) => "invalid_too_long",
            Self::Invalid(Invalid::Refused) => "invalid_refused",
            Self::Invalid(Invalid::Remote) => "invalid_remote",
            Self::Invalid(Invalid::Unpaired) => "invalid_unpaired",
        }
    }
}

impl Label for Pushed {
    const KEY: &'static str = "result";
    const ALL: &'static [Self] = &[Self::Kept, Self::ZeroVariance, Self::Duplicate];
    fn value(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::ZeroVariance => "zero_variance",
            Self::Duplicate => "duplicate",
        }
    }
}
