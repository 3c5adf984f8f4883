//! Labels that only metrics have: enums that merge or judge what the domain's types say.
//!
//! A domain enum that is a label itself implements [`Label`] in `types`. Invariant: the set of series is closed.

pub use crate::types::{Label, Role};

macro_rules! labels {
    ($(#[doc = $doc:literal] $name:ident $key:literal { $(#[doc = $variant_doc:literal] $variant:ident = $value:literal,)* })*) => {$(
        #[doc = $doc]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $(#[doc = $variant_doc] $variant,)*
        }
        impl Label for $name {
            const KEY: &'static str = $key;
            const ALL: &'static [Self] = &[$(Self::$variant),*];
            fn value(self) -> &'static str {
                match self { $(Self::$variant => $value,)* }
            }
        }
    )*};
}

labels! {
    /// What became of an episode.
    EpisodeEnd "outcome" {
        /// Its group went to replay.
        Scored = "scored",
        /// All its critiques have the same utility: nothing to learn.
        ZeroVariance = "zero_variance",
        /// Fewer than two critiques had a utility.
        Unscored = "unscored",
        /// A role did not answer in time.
        Deadline = "deadline",
        /// Its text does not fit the context.
        TooLong = "too_long",
        /// A remote server gave no answer.
        Remote = "remote",
        /// Replay had its group already.
        Duplicate = "duplicate",
    }
    /// Why a critique earned no utility.
    CritiqueDrop "reason" {
        /// No refinement of it got a valid verdict.
        NoVerdict = "no_verdict",
        /// Its refinements did not come in time.
        Deadline = "deadline",
        /// Its refinements' prompt does not fit the context.
        TooLong = "too_long",
        /// A remote server refined nothing.
        Remote = "remote",
    }
    /// What became of one try to get an answer from a remote server.
    RemoteOutcome "outcome" {
        /// An answer that could be read.
        Answered = "answered",
        /// None in time.
        Timeout = "timeout",
        /// No connection, or one that broke.
        Unreachable = "unreachable",
        /// The server has too much to do (429).
        Busy = "busy",
        /// The server failed (5xx).
        Broken = "broken",
        /// The server does not take the question (another status).
        Refused = "refused",
        /// An answer that could not be read.
        Rubbish = "rubbish",
    }
    /// Which tokens a remote server counted.
    RemoteTokens "kind" {
        /// Those that it read.
        Prompt = "prompt",
        /// Those that it wrote.
        Completion = "completion",
    }
    /// What a model said of a pair in one order.
    JudgeAnswer "answer" {
        /// The text shown first is better.
        First = "first",
        /// The text shown second is better.
        Second = "second",
        /// Neither is.
        Tie = "tie",
        /// Nothing that could be read, or nothing in time.
        Invalid = "invalid",
    }
    /// How the two orders of a pair agree.
    OrderAgreement "orders" {
        /// Both prefer the same text, or both say tie.
        Same = "same",
        /// Each prefers another text: the position decided.
        Opposite = "opposite",
        /// One says tie, the other does not.
        OneTie = "one_tie",
        /// One or both have no answer.
        Invalid = "invalid",
    }
    /// Why a group left replay.
    RetireReason "reason" {
        /// Older than the limit.
        Aged = "aged",
        /// Used as often as allowed.
        Used = "used",
        /// Pushed out by newer ones.
        Displaced = "displaced",
    }
}
