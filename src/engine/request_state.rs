//! The state of an accepted request: the weights it keeps to its end, and the output of its continuations.
//!
//! Knows no block and no schedule.

use super::output::OutputBuffer;
use super::report::RequestWait;
use super::request::{Detokenize, Request, TokenReport, TokenReports};
use super::resident::Weights;
use super::sampler::Draw;
use super::stream::StreamEvent;
use crate::formats::Result;
use crate::types::{Completion, FinishReason};
use std::time::{Duration, Instant};

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
    /// Whether what is written is given as events.
    streamed: bool,
    /// The prompt's tokens that are reported so far, until they are given.
    prompt: Vec<TokenReport>,
    /// Whether the first event was given.
    started: bool,
    /// When it was accepted; none once its first token is written.
    accepted: Option<Instant>,
}

impl RequestState {
    /// `request` with nothing written, `room` being the tokens that fit behind its prompt.
    pub(crate) fn new(mut request: Request, weights: Weights, room: usize, streamed: bool) -> Self {
        let tokens_max = request.sampling.max_tokens.min(room);
        if !streamed {
            request.reports = TokenReports::default();
        }
        let open = if tokens_max == 0 && !request.reports.prompt { 0 } else { request.n };
        let outputs = (0..request.n).map(|_| OutputBuffer::new(streamed)).collect();
        // Nothing predicts the first token.
        let first = request.prompt.first().filter(|_| request.reports.prompt);
        let prompt = first.map(|&id| TokenReport { id, ..TokenReport::default() }).into_iter().collect();
        let (candidates, log_probs, started, accepted) = (Vec::new(), Vec::new(), false, Some(Instant::now()));
        Self { outputs, request, weights, tokens_max, open, candidates, log_probs, streamed, prompt, started, accepted }
    }

    /// Who waits for its first token, and since how long; none once it is there.
    pub(crate) fn wait(&self) -> Option<RequestWait> {
        Some(RequestWait { origin: self.request.origin, waited: self.accepted?.elapsed() })
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

    /// Whether it writes tokens behind its prompt.
    pub(crate) fn writes(&self) -> bool {
        self.tokens_max > 0
    }

    /// Whether what is written is given as events.
    pub(crate) fn is_streamed(&self) -> bool {
        self.streamed
    }

    /// Whether the first event was given.
    pub(crate) fn is_started(&self) -> bool {
        self.started
    }

    /// Adds reports of the prompt's tokens.
    pub(crate) fn add_prompt(&mut self, reports: impl Iterator<Item = TokenReport>) {
        self.prompt.extend(reports);
    }

    /// The time until its prompt was computed, the first time that this is asked.
    pub(crate) fn start(&mut self) -> Option<Duration> {
        self.accepted.take().map(|accepted| accepted.elapsed())
    }

    /// The first event of a stream; `cached_tokens` of the prompt were found in the cache.
    pub(crate) fn started(&mut self, cached_tokens: usize) -> StreamEvent {
        self.started = true;
        let prompt = std::mem::take(&mut self.prompt);
        StreamEvent::Started { version: self.weights.version, cached_tokens, prompt }
    }

    /// The event of a stream's continuation `index`, to which `token` was just written, if one was.
    pub(crate) fn grown(&mut self, index: usize, token: Option<TokenReport>) -> StreamEvent {
        let output = &mut self.outputs[index];
        let (text, tokens) = (output.take_text(&self.request.sampling.stop), token.into_iter().collect());
        StreamEvent::Tokens { index, text, tokens, finish: output.finish() }
    }

    /// Ends all continuations without a token. Returns the events of a stream.
    pub(crate) fn end(&mut self, cached_tokens: usize) -> Vec<StreamEvent> {
        self.outputs.iter_mut().for_each(OutputBuffer::end);
        self.open = 0;
        if !self.streamed {
            return Vec::new();
        }
        let started = self.started(cached_tokens);
        std::iter::once(started).chain((0..self.request.n).map(|index| self.grown(index, None))).collect()
    }

    /// Appends a token to the `index`-th output. True if it was the last one.
    pub(crate) fn push(&mut self, index: usize, draw: Draw, decode: &Detokenize) -> Result<bool> {
        let ended = self.outputs[index].push(draw.id, draw.log_prob, &self.request, self.tokens_max, decode)?;
        self.open -= usize::from(ended);
        Ok(ended)
    }

    /// The result, once all continuations have ended; nothing of a stream, which was given as events.
    pub(crate) fn completions(&self, decode: &Detokenize) -> Result<Vec<Completion>> {
        if self.streamed {
            return Ok(Vec::new());
        }
        if !self.candidates.is_empty() {
            let (ids, log_probs, text) = (self.candidates.clone(), self.log_probs.clone(), String::new());
            let version = self.weights.version;
            return Ok(vec![Completion { ids, log_probs, text, version, finish: FinishReason::Length }]);
        }
        self.outputs.iter().map(|output| output.complete(&self.request, self.weights.version, decode)).collect()
    }
}
