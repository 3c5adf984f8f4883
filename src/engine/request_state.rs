//! The state of an accepted request: the weights it keeps to its end, and the output of its continuations.
//!
//! Knows no block and no schedule.

use super::blocks::BlockKey;
use super::output::OutputBuffer;
use super::request::{Detokenize, Request};
use super::sampler::Draw;
use crate::formats::Result;
use crate::transformer::decode::PackedAdapter;
use crate::types::{Completion, CriticVersion, FinishReason};
use std::sync::Arc;

/// One installation of weights: a critic's, or the base.
#[derive(Clone)]
pub(crate) struct Weights {
    pub(crate) version: CriticVersion,
    pub(crate) adapter: Option<Arc<PackedAdapter>>,
    /// Where the key chains of its blocks begin. The version will not do: a learner that goes back to a checkpoint may
    /// publish the same number again with other weights.
    pub(crate) root: BlockKey,
}

impl Weights {
    /// The base: no adapter. Its blocks stay good forever.
    pub(crate) fn base() -> Self {
        Self { version: CriticVersion::BASE, adapter: None, root: BlockKey::root(0) }
    }

    /// The `installation`-th adapter, counted from 1.
    pub(crate) fn critic(version: CriticVersion, adapter: Arc<PackedAdapter>, installation: u64) -> Self {
        Self { version, adapter: Some(adapter), root: BlockKey::root(installation) }
    }
}

/// An accepted request.
pub(crate) struct RequestState {
    pub(crate) request: Request,
    pub(crate) weights: Weights,
    /// Most tokens a continuation may have, by its own limit and by the engine's.
    tokens_max: usize,
    outputs: Vec<OutputBuffer>,
    /// Continuations that have not ended.
    open: usize,
    /// Candidate tokens to score instead of writing a text; empty where a text is written.
    candidates: Vec<u32>,
    /// Their log-probabilities, once they are computed.
    log_probs: Vec<f32>,
}

impl RequestState {
    /// `request` with nothing written, `room` being the tokens that fit behind its prompt.
    pub(crate) fn new(request: Request, weights: Weights, room: usize) -> Self {
        let tokens_max = request.sampling.max_tokens.min(room);
        let open = if tokens_max == 0 { 0 } else { request.n };
        let outputs = vec![OutputBuffer::default(); request.n];
        Self { outputs, request, weights, tokens_max, open, candidates: Vec::new(), log_probs: Vec::new() }
    }

    /// Scores `candidates` instead of writing a text.
    pub(crate) fn set_candidates(&mut self, candidates: Vec<u32>) {
        self.candidates = candidates;
    }

    /// Candidate tokens to score; none where a text is written.
    pub(crate) fn candidates(&self) -> &[u32] {
        &self.candidates
    }

    /// Sets the candidates' log-probabilities.
    pub(crate) fn set_log_probs(&mut self, log_probs: Vec<f32>) {
        self.log_probs = log_probs;
    }

    /// Continuations that have not ended.
    pub(crate) fn open(&self) -> usize {
        self.open
    }

    /// Appends a token to the `index`-th output. True if it was the last one.
    pub(crate) fn push(&mut self, index: usize, draw: Draw, decode: &Detokenize) -> Result<bool> {
        let ended = self.outputs[index].push(draw.id, draw.log_prob, &self.request, self.tokens_max, decode)?;
        self.open -= usize::from(ended);
        Ok(ended)
    }

    /// The result, once all continuations have ended.
    pub(crate) fn completions(&self, decode: &Detokenize) -> Result<Vec<Completion>> {
        if !self.candidates.is_empty() {
            let (ids, log_probs, text) = (self.candidates.clone(), self.log_probs.clone(), String::new());
            let version = self.weights.version;
            return Ok(vec![Completion { ids, log_probs, text, version, finish: FinishReason::Length }]);
        }
        self.outputs.iter().map(|output| output.complete(&self.request, self.weights.version, decode)).collect()
    }
}
