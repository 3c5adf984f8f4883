//! How a text is sampled, as the `sampling` tables of the config name it.

use serde::{Deserialize, Serialize};

/// How a text is sampled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamplingConfig {
    /// Longest completion, in tokens.
    pub max_tokens: usize,
    /// 0 is greedy: the likeliest id (the lowest of equals) is taken, top-k, top-p and min-p have nothing
    /// to cut, and the reported log-probability is the model's own (softmax at temperature 1).
    pub temperature: f32,
    /// Keep the k likeliest, lower ids first among equals; 0 is off.
    pub top_k: usize,
    /// Keep the smallest set of at least this mass; 1 is off.
    pub top_p: f32,
    /// Drop what is less likely than this share of the likeliest; 0 is off.
    pub min_p: f32,
    /// Strings that end a text.
    pub stop: Vec<String>,
}

impl SamplingConfig {
    /// The likeliest token each time, up to `max_tokens`.
    pub fn greedy(max_tokens: usize) -> Self {
        Self { max_tokens, temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, stop: Vec::new() }
    }

    /// Whether top-k, top-p or min-p drops any token.
    pub(crate) fn filters(&self) -> bool {
        self.top_k > 0 || self.top_p < 1.0 || self.min_p > 0.0
    }
}
