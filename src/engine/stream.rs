//! The events of a streamed request.

use super::request::TokenReport;
use crate::types::{CriticVersion, FinishReason};

/// What a stream carries. The texts and ids of a continuation's events, joined, are those of the completion that the same
/// request gets where it is not streamed.
#[derive(Clone, Debug, PartialEq)]
pub enum StreamEvent {
    /// The first: the prompt is computed, and the first tokens follow.
    Started {
        /// The critic version that writes; the base is version 0.
        version: CriticVersion,
        /// Tokens of the prompt that were found in the cache.
        cached_tokens: usize,
        /// The prompt's tokens, if they were asked for.
        prompt: Vec<TokenReport>,
    },
    /// More of one continuation.
    Tokens {
        /// Which.
        index: usize,
        /// What the text grows by. It lags behind the tokens where more of them are needed to know it: bytes of an
        /// unfinished character and what may be the beginning of a stop string are held back.
        text: String,
        /// What the ids grow by.
        tokens: Vec<TokenReport>,
        /// Why it ended, if it has.
        finish: Option<FinishReason>,
    },
}
