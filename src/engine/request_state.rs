//! A request under way: the weights it keeps to its end, and the drafts of its continuations.
//!
//! Knows no block and no schedule.

use super::blocks::BlockKey;
use super::output::OutputBuffer;
use super::sampler::Draw;
use super::{Detokenize, Request};
use crate::formats::Result;
use crate::transformer::decode::PackedAdapter;
use crate::types::Completion;
use crate::types::{CriticVersion, Finish};
use std::sync::Arc;

/// One installation of weights: a critic's, or the base.
#[derive(Clone)]
pub(crate) struct Weights {
    pub(crate) version: CriticVersion,
    pub(crate) adapter: Option<Arc<PackedAdapter>>,
    /// Where the key chains of its blocks begin. Not the version: a number may be published twice, with
    /// other weights, when a learner goes back to a checkpoint.
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

/// A request under way.
pub(crate) struct RequestState {
    pub(crate) request: Request,
    pub(crate) weights: Weights,
    /// Most tokens a continuation may have, by its own limit and by the engine's.
    tokens_max: usize,
    drafts: Vec<OutputBuffer>,
    /// Continuations that go on.
    open: usize,
    /// Tokens to be weighed instead of a text written; empty for a text.
    candidates: Vec<u32>,
    /// Their log-probabilities, once they are computed.
    log_probs: Vec<f32>,
}

impl RequestState {
    /// `request` with nothing written, `room` being the tokens that fit behind its prompt.
    pub(crate) fn new(request: Request, weights: Weights, room: usize) -> Self {
        let tokens_max = request.sampling.max_tokens.min(room);
        let open = if tokens_max == 0 { 0 } else { request.n };
        let drafts = vec![OutputBuffer::default(); request.n];
        Self { drafts, request, weights, tokens_max, open, candidates: Vec::new(), log_probs: Vec::new() }
    }

    /// Weighs `candidates` instead of writing.
    pub(crate) fn weigh(&mut self, candidates: Vec<u32>) {
        self.candidates = candidates;
    }

    /// Tokens to be weighed; none where a text is written.
    pub(crate) fn candidates(&self) -> &[u32] {
        &self.candidates
    }

    /// The candidates' log-probabilities.
    pub(crate) fn weighed(&mut self, log_probs: Vec<f32>) {
        self.log_probs = log_probs;
    }

    /// Continuations that go on.
    pub(crate) fn open(&self) -> usize {
        self.open
    }

    /// Adds a token to the `index`-th draft. True where it was its last.
    pub(crate) fn push(&mut self, index: usize, draw: Draw, decode: &Detokenize) -> Result<bool> {
        let ended = self.drafts[index].push(draw.id, draw.log_prob, &self.request, self.tokens_max, decode)?;
        self.open -= usize::from(ended);
        Ok(ended)
    }

    /// What is handed out, once all have ended.
    pub(crate) fn completions(&self, decode: &Detokenize) -> Result<Vec<Completion>> {
        if !self.candidates.is_empty() {
            let (ids, log_probs, text) = (self.candidates.clone(), self.log_probs.clone(), String::new());
            let version = self.weights.version;
            return Ok(vec![Completion { ids, log_probs, text, version, finish: Finish::Length }]);
        }
        self.drafts.iter().map(|draft| draft.complete(&self.request, self.weights.version, decode)).collect()
    }
}
