//! A request to the engine and its number.

use super::sampling_config::SamplingConfig;
use crate::types::{CriticVersion, Origin};

/// The weights that a request is written with. They are fixed when the engine takes the request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// The base, without adapter.
    #[default]
    Base,
    /// The critic in service.
    Serving,
    /// This critic, which must be resident.
    Version(CriticVersion),
}

/// What a stream reports of its tokens beside their ids. A request that is not streamed has no reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenReports {
    /// Whether the log-probabilities of sampled tokens are reported. The two below imply it.
    pub log_probs: bool,
    /// The number of likeliest tokens that are reported at each position; 0 for none.
    pub top: usize,
    /// Whether the prompt's tokens are reported too. Then all of the prompt is computed, whatever the cache holds.
    pub prompt: bool,
}

impl TokenReports {
    /// Whether anything is reported.
    pub(crate) fn any(self) -> bool {
        self.log_probs || self.top > 0 || self.prompt
    }
}

/// A token with what the model thought of it: log-probabilities are the model's own (softmax over the whole vocabulary at
/// temperature 1, after any bias), in nats.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenReport {
    /// Its id.
    pub id: u32,
    /// Its log-probability; none where it was not asked for, and for the first token of a prompt, which nothing predicts.
    pub log_prob: Option<f32>,
    /// The likeliest tokens at its position, the likeliest first and the lower id among equals.
    pub top: Vec<(u32, f32)>,
}

/// What the engine is asked: `n` continuations of one prompt.
#[derive(Clone, Debug)]
pub struct Request {
    /// The prompt's ids; at least one.
    pub prompt: Vec<u32>,
    /// How many continuations; they are computed as one for as long as they are the same.
    pub n: usize,
    /// How to sample.
    pub sampling: SamplingConfig,
    /// Ids that end a text (kept as its last id).
    pub stop_ids: Vec<u32>,
    /// Continuation `i` draws from a stream seeded by this and `i` alone.
    pub seed: u64,
    /// The weights that write it.
    pub policy: Policy,
    /// Added to the logits of these ids before anything else; finite. -100 bans an id in effect.
    pub logit_bias: Vec<(u32, f32)>,
    /// What a stream reports of its tokens.
    pub reports: TokenReports,
    /// Who asks.
    pub origin: Origin,
}

impl Request {
    /// `n` continuations of `prompt` by the base, each ending at one of `stop_ids`.
    pub fn new(prompt: Vec<u32>, n: usize, sampling: SamplingConfig, stop_ids: Vec<u32>, seed: u64) -> Self {
        let (policy, reports, origin) = (Policy::Base, TokenReports::default(), Origin::Rollout);
        Self { prompt, n, sampling, stop_ids, seed, policy, logit_bias: Vec::new(), reports, origin }
    }

    /// The same, written by `policy`.
    pub fn with_policy(self, policy: Policy) -> Self {
        Self { policy, ..self }
    }

    /// Adds the bias to its `rows` of logits.
    pub(crate) fn add_bias(&self, rows: &mut [f32], vocab: usize) {
        if self.logit_bias.is_empty() {
            return;
        }
        for row in rows.chunks_exact_mut(vocab) {
            self.logit_bias.iter().for_each(|&(id, bias)| row[id as usize] += bias);
        }
    }
}

/// Names a request inside the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// Text of ids, special tokens left out.
pub type Detokenize = Box<dyn Fn(&[u32]) -> crate::formats::Result<String> + Send>;
