//! A chat request and its response, whatever the wire format.

use crate::types::{FinishReason, Turn};

/// Fields that a request may lack, so that a server which refuses one can be asked without it. Log-probabilities are none: an answer
/// without them is of no use where they are wanted.
pub(super) const OPTIONAL: [&str; 7] = ["max_tokens", "temperature", "seed", "top_p", "top_k", "min_p", "stop"];

/// A request: a conversation and how to sample its continuation.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatRequest {
    /// The conversation.
    pub turns: Vec<Turn>,
    /// Maximum length of the answer, in tokens.
    pub max_tokens: usize,
    /// 0 is greedy.
    pub temperature: f32,
    /// 0 is off.
    pub top_k: usize,
    /// 1 is off.
    pub top_p: f32,
    /// 0 is off.
    pub min_p: f32,
    /// Strings that end the answer.
    pub stop: Vec<String>,
    /// Sampling seed, for servers that honour it; also seeds the jitter of pauses.
    pub seed: u64,
    /// Requests the log-probabilities of the likeliest first tokens.
    pub wants_log_probs: bool,
}

/// Token counts that the server reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Tokens of the answer.
    pub completion_tokens: u64,
}

/// A server's answer.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatResponse {
    /// The text.
    pub text: String,
    /// Why it ended.
    pub finish: FinishReason,
    /// Token counts; zero if the server does not report them.
    pub usage: Usage,
    /// The likeliest first tokens and their log-probabilities (nats), if requested.
    pub first_tokens: Vec<(String, f64)>,
}

impl Default for ChatRequest {
    /// A greedy request without a conversation.
    fn default() -> Self {
        let (turns, stop) = (Vec::new(), Vec::new());
        Self {
            turns,
            max_tokens: 1,
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            stop,
            seed: 0,
            wants_log_probs: false,
        }
    }
}
