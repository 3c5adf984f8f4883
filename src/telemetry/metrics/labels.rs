//! Labels that only metrics have: enums that merge or summarise values of domain types.
//!
//! A domain enum that is itself a label implements [`Label`] in `types`. Invariant: the set of series is closed.

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
    /// The outcome of an episode.
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
        /// The chat template or the tokenizer refused a text.
        Refused = "refused",
        /// A remote server gave no answer.
        Remote = "remote",
        /// Replay already had its group.
        Duplicate = "duplicate",
    }
    /// Why a critique earned no utility.
    CritiqueDrop "reason" {
        /// No refinement of it got a valid verdict.
        NoVerdict = "no_verdict",
        /// Its refinements were not generated in time.
        Deadline = "deadline",
        /// Its refinements' prompt does not fit the context.
        TooLong = "too_long",
        /// The chat template or the tokenizer refused it.
        Refused = "refused",
        /// A remote server returned no refinement.
        Remote = "remote",
    }
    /// The outcome of one attempt to get an answer from a remote server.
    RemoteOutcome "outcome" {
        /// A readable answer.
        Answered = "answered",
        /// No answer in time.
        Timeout = "timeout",
        /// No connection, or it broke.
        Unreachable = "unreachable",
        /// The server is overloaded (429).
        Busy = "busy",
        /// The server failed (5xx).
        ServerError = "server_error",
        /// The server refused the request (another status).
        Refused = "refused",
        /// An unreadable answer.
        Unreadable = "unreadable",
    }
    /// Which tokens a remote server counted.
    RemoteTokens "kind" {
        /// Tokens of prompts.
        Prompt = "prompt",
        /// Tokens of answers.
        Completion = "completion",
    }
    /// A model judge's answer to one order of a pair.
    JudgeAnswer "answer" {
        /// The text shown first is better.
        First = "first",
        /// The text shown second is better.
        Second = "second",
        /// Neither is.
        Tie = "tie",
        /// No readable answer, or none in time.
        Invalid = "invalid",
    }
    /// How the two orders of a pair agree.
    OrderAgreement "orders" {
        /// Both prefer the same text, or both say tie.
        Same = "same",
        /// Each prefers a different text: the position decided.
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
