//! The engine: writes many sequences at once by continuous batching over a paged KV cache.
//!
//! It knows token ids and weights, text only for stop strings, and no actor. It takes no lock.
//!
//! Invariants: a request's result depends on that request alone, not on the rest of the batch; one critic version writes
//! all of a completion; a block computed by one installation of weights is never read by another; a finished or cancelled
//! request holds no block.

mod blocks;
mod candidates;
mod config;
mod cost;
pub mod distinct;
mod error;
mod exp;
mod logit_filter;
mod output;
mod plan;
mod prefix;
#[doc(hidden)]
pub mod probe;
mod report;
mod request;
mod request_state;
mod resident;
mod sampled;
pub mod sampler;
mod sampling_config;
mod scheduler;
mod sequence;
mod stream;
mod token_report;
mod turns;

use crate::formats::tokenizer::Tokenizer;
use crate::transformer::{
    decode::BLOCK_TOKENS, decode::Batch, decode::Decoder, decode::Forward, decode::PackedAdapter,
};
use crate::types::{Completion, CriticVersion};
pub use config::EngineConfig;
pub use cost::StepCost;
pub use error::Error;
use plan::{HTTP_SHARE, Plan};
use report::lap;
pub use report::{Counters, RequestWait, StepReport, StepWork, Times};
pub use request::{Detokenize, Policy, Request, RequestId, TokenReport, TokenReports};
use request_state::RequestState;
pub use resident::Holder;
use resident::ResidentCritics;
use sampled::{Computed, Sampled, States, fill_batch, sample};
use sampler::{Draw, SamplingConfig, Scratch};
use scheduler::Scheduler;
use sequence::{Branch, Name, Sequence};
use std::sync::Arc;
use std::time::Instant;
pub use stream::StreamEvent;

/// The engine.
pub struct Engine<F: Forward = Decoder> {
    model: F,
    decode: Detokenize,
    scheduler: Scheduler,
    states: States,
    finished: Vec<(RequestId, Vec<Completion>)>,
    /// Events of streamed requests that nobody took yet.
    events: Vec<(RequestId, StreamEvent)>,
    critics: ResidentCritics,
    requests: u64,
    /// Longest prompt and completion together, by the config and by the cache.
    context: usize,
    counters: Counters,
    scratch: Vec<Scratch>,
    /// The step's tokens and logits; kept to reuse their memory.
    batch: Batch,
    logits: Vec<f32>,
}

impl<F: Forward> Engine<F> {
    /// An engine over `model`; `tokenizer` turns ids into text for stop strings and completions.
    pub fn new(model: F, tokenizer: Tokenizer, config: EngineConfig) -> Self
    where
        Tokenizer: Send + 'static,
    {
        Self::with_text(model, Box::new(move |ids| tokenizer.decode(ids)), config)
    }

    /// An engine whose text comes from `decode`.
    pub fn with_text(model: F, decode: Detokenize, config: EngineConfig) -> Self {
        let blocks = model.blocks();
        Self {
            scheduler: Scheduler::new(blocks, config.step_tokens_max, config.sequences_max, HTTP_SHARE),
            context: config.context_tokens_max.min(blocks * BLOCK_TOKENS),
            model,
            decode,
            states: States::new(),
            finished: Vec::new(),
            events: Vec::new(),
            critics: ResidentCritics::new(config.versions_max),
            requests: 0,
            counters: Counters::default(),
            scratch: Vec::new(),
            batch: Batch::default(),
            logits: Vec::new(),
        }
    }

    /// Accepts a request. The critic version that writes it is fixed here.
    ///
    /// # Errors
    /// Where the prompt is empty, or leaves no room for a token in the context or in the cache; where an id or a bias is
    /// invalid; where it names a critic that is not resident.
    pub fn submit(&mut self, request: Request) -> Result<RequestId, Error> {
        self.accept(request, false)
    }

    /// Like [`Engine::submit`]; what is written is given by [`Engine::take_events`] as it grows. Once the request is
    /// finished, it has no completions beside its events.
    ///
    /// # Errors
    /// As [`Engine::submit`].
    pub fn submit_streamed(&mut self, request: Request) -> Result<RequestId, Error> {
        self.accept(request, true)
    }

    fn accept(&mut self, request: Request, streamed: bool) -> Result<RequestId, Error> {
        let (prompt, max) = (request.prompt.len(), self.context.saturating_sub(1));
        if prompt == 0 || prompt > max {
            return Err(Error::PromptLength { prompt, max });
        }
        let vocab = self.model.vocab();
        if let Some(&id) = request.prompt.iter().find(|id| **id as usize >= vocab) {
            return Err(Error::TokenId { id, vocab });
        }
        let is_wrong = |&&(id, bias): &&(u32, f32)| id as usize >= vocab || !bias.is_finite();
        if let Some(&(id, bias)) = request.logit_bias.iter().find(is_wrong) {
            return Err(Error::LogitBias { id, bias, vocab });
        }
        let weights = self.critics.weights(request.policy)?;
        let id = RequestId(self.requests);
        self.requests += 1;
        let mut state = RequestState::new(request, weights, self.context - prompt, streamed);
        if state.open() > 0 {
            let name = Name { request: id, index: 0 };
            let mut sequence = Sequence::new(name, state.request.prompt.clone(), state.open(), state.weights.root);
            sequence.origin = state.request.origin;
            sequence.unreported = state.request.reports.prompt.then_some(0);
            self.scheduler.wait(sequence);
            self.counters.prompt_tokens += (prompt * state.open()) as u64;
        } else {
            self.events.extend(state.end(0).into_iter().map(|event| (id, event)));
        }
        self.states.insert(id, state);
        self.finish_if_done(id)?;
        Ok(id)
    }

    /// Scores `candidates` as the next token of `prompt` by `policy`, without writing a text. The result is one
    /// completion: `ids` are the candidates, `log_probs` the model's own (softmax over the whole vocabulary at temperature
    /// 1, in nats), and its text is empty. It runs as a request for one greedy token, in the same batches and blocks.
    ///
    /// # Errors
    /// As [`Engine::submit`], and where there is no candidate or one is no token of the model.
    pub fn score_candidates(
        &mut self,
        policy: Policy,
        prompt: Vec<u32>,
        candidates: Vec<u32>,
    ) -> Result<RequestId, Error> {
        let vocab = self.model.vocab();
        if let Some(&id) = candidates.iter().find(|id| **id as usize >= vocab) {
            return Err(crate::transformer::Error::TokenId { id, vocab }.into());
        }
        if candidates.is_empty() {
            return Err(crate::transformer::Error::EmptyText.into());
        }
        let sampling = SamplingConfig::greedy(1);
        let id = self.submit(Request::new(prompt, 1, sampling, Vec::new(), 0).with_policy(policy))?;
        let state = self.states.get_mut(&id).expect("a prompt that was taken leaves room for one token");
        state.set_candidates(candidates);
        Ok(id)
    }

    /// Drops a request, finished or not, and frees its blocks.
    pub fn cancel(&mut self, id: RequestId) {
        self.scheduler.remove(id);
        self.states.remove(&id);
        self.finished.retain(|(finished, _)| *finished != id);
        self.events.retain(|(of, _)| *of != id);
    }

    /// Sets the share of a step's tokens and of the sequences that requests over HTTP get while rollouts have work too: a
    /// number in `(0, 1]`. Each may use what the other leaves, and whichever sequence is the oldest proceeds.
    pub fn set_share(&mut self, http: f64) {
        self.scheduler.set_share(http);
    }

    /// Puts `version` into service; the one before it lives until its last sequence ends. A version without adapter is the
    /// base's weights.
    pub fn install(&mut self, version: CriticVersion, adapter: Option<Arc<PackedAdapter>>) {
        self.critics.install(version, adapter);
    }

    /// The critics in memory: the one in service, resident ones, and those of sequences under way; the base is none.
    pub(crate) fn critics(&self) -> &ResidentCritics {
        &self.critics
    }

    /// The same, to load one beside the critic in service, or to forget one: sequences under way keep it.
    pub(crate) fn critics_mut(&mut self) -> &mut ResidentCritics {
        &mut self.critics
    }

    /// Share of the KV blocks that were held at least once, in `[0, 1]`: their memory is in use.
    pub fn kv_touched(&self) -> f64 {
        self.scheduler.pool().touched()
    }

    /// Whether there is anything to compute.
    pub fn is_idle(&self) -> bool {
        self.scheduler.is_idle()
    }

    /// One step: schedule, run, sample, report.
    ///
    /// # Errors
    /// Where the model fails or computes no distribution. The step is then undone: its sequences are
    /// recomputed by the next one, to the same result; cancel the request that [`Error::request`] names.
    pub fn step(&mut self) -> Result<StepReport, Error> {
        let mut clock = Instant::now();
        let plan = self.scheduler.schedule();
        fill_batch(&mut self.batch, &self.scheduler, &self.states, self.model.draws());
        let mut report = self.report(&plan);
        report.times.bookkeeping = lap(&mut clock);
        self.run(&plan, &mut report, clock).inspect_err(|_| self.scheduler.preempt_all())?;
        self.scheduler.took(&plan, report.times.total().as_secs_f64());
        self.counters.add(&report);
        Ok(report)
    }

    fn run(&mut self, plan: &Plan, report: &mut StepReport, mut clock: Instant) -> Result<(), Error> {
        let drawn = self.compute(plan)?;
        report.times.model = lap(&mut clock);
        let computed = Computed { batch: &self.batch, drawn, logits: &mut self.logits, vocab: self.model.vocab() };
        let sampled = sample(&self.scheduler, &self.states, computed, &mut self.scratch)?;
        report.times.sampling = lap(&mut clock);
        self.write(sampled, report)?;
        report.times.bookkeeping += lap(&mut clock);
        Ok(())
    }

    /// Finished requests, in the order in which they finished.
    pub fn take_finished(&mut self) -> Vec<(RequestId, Vec<Completion>)> {
        std::mem::take(&mut self.finished)
    }

    /// Events of streamed requests since they were last taken, in order.
    pub fn take_events(&mut self) -> Vec<(RequestId, StreamEvent)> {
        std::mem::take(&mut self.events)
    }

    /// The critic in service.
    pub fn critic_version(&self) -> CriticVersion {
        self.critics.serving()
    }

    /// Continuations that are being computed.
    pub fn running(&self) -> usize {
        self.scheduler.running()
    }

    /// Continuations that wait for a slot, for blocks, or for a prefix that another sequence is computing.
    pub fn waiting(&self) -> usize {
        self.scheduler.waiting()
    }

    /// Share of the KV blocks that sequences hold, in `[0, 1]`.
    pub fn kv_usage(&self) -> f64 {
        self.scheduler.pool().usage()
    }

    /// Counters since the start, or since they were last taken.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Takes the counters, which restart from zero. The cache is left as it is.
    pub fn take_counters(&mut self) -> Counters {
        std::mem::take(&mut self.counters)
    }

    /// The report of the planned step, without what it samples.
    fn report(&self, plan: &Plan) -> StepReport {
        StepReport {
            prefill_tokens: self.scheduler.planned().filter(|s| !s.is_decoding()).map(|s| s.planned).sum(),
            admitted: plan.admitted.iter().filter_map(|request| self.states[request].wait()).collect(),
            preemptions: plan.preemptions,
            cached_tokens: plan.cached_tokens,
            shared_tokens: self.scheduler.planned().map(|s| s.planned * s.siblings.len()).sum(),
            copied_blocks: plan.copies.len(),
            evicted_blocks: plan.evicted_blocks,
            work: StepWork::of(&self.batch),
            ..StepReport::default()
        }
    }

    /// Computes the planned tokens: the rows of logits that their sequences need, and the tokens that the device draws.
    fn compute(&mut self, plan: &Plan) -> Result<Vec<Option<Draw>>, Error> {
        if self.batch.spans.is_empty() {
            return Ok(Vec::new());
        }
        if !plan.copies.is_empty() {
            self.model.copy_blocks(&plan.copies)?;
        }
        if !plan.reports() {
            self.logits.shrink_to(self.scheduler.sequences_max() * self.model.vocab());
        }
        let done = self.model.step(&self.batch, &mut self.logits);
        // A batch must not keep a superseded adapter alive.
        self.batch.adapters.clear();
        Ok(done?)
    }

    /// Records what a step computed and sampled.
    fn write(&mut self, step: Vec<Sampled>, report: &mut StepReport) -> Result<(), Error> {
        for mut sampled in step {
            let name = sampled.name;
            self.scheduler.advance(name);
            let state = self.states.get_mut(&name.request).expect("a request has a state until it is finished");
            state.add_prompt(sampled.reports.drain(..sampled.prompt_reports));
            if !sampled.is_last {
                continue;
            }
            state.set_log_probs(std::mem::take(&mut sampled.candidate_log_probs));
            report.count(state.request.origin, sampled.draws.len(), state.start());
            let (branches, failed) = if state.writes() {
                self.write_draws(sampled)
            } else {
                let events = state.end(sampled.cached_tokens);
                self.events.extend(events.into_iter().map(|event| (name.request, event)));
                (Vec::new(), None)
            };
            self.scheduler.branch(name, &branches);
            if let Some(source) = failed {
                return Err(Error::Text { request: name.request.0, source });
            }
            self.finish_if_done(name.request)?;
        }
        Ok(())
    }

    /// Writes what the continuations of a sequence drew. Returns those that go on, by token.
    fn write_draws(&mut self, sampled: Sampled) -> (Vec<Branch>, Option<crate::formats::Error>) {
        let Sampled { name, draws, reports, cached_tokens, .. } = sampled;
        let state = self.states.get_mut(&name.request).expect("a request has a state until it is finished");
        let (mut branches, mut failed, mut reports): (Vec<Branch>, _, _) = (Vec::new(), None, reports.into_iter());
        if state.is_streamed() && !state.is_started() {
            self.events.push((name.request, state.started(cached_tokens)));
        }
        for (index, draw) in draws {
            // After a failure the rest is left unwritten and sampled again by the next step.
            let done = if failed.is_none() { state.push(index, draw, &self.decode) } else { Ok(false) };
            let ended = done.unwrap_or_else(|error| {
                failed = Some(error);
                false
            });
            let token = failed.is_none().then_some(draw.id);
            if state.is_streamed() && failed.is_none() {
                let report = reports.next().unwrap_or_else(|| TokenReport { id: draw.id, ..TokenReport::default() });
                self.events.push((name.request, state.grown(index, Some(report))));
            }
            match branches.iter_mut().find(|branch| branch.token == token) {
                _ if ended => {}
                Some(branch) => branch.continuations.push(index),
                None => branches.push(Branch { continuations: vec![index], token }),
            }
        }
        (branches, failed)
    }

    /// Finishes a request once all its continuations have ended.
    fn finish_if_done(&mut self, id: RequestId) -> Result<(), Error> {
        if let Some(state) = self.states.get(&id).filter(|state| state.open() == 0) {
            let completions = state.completions(&self.decode);
            self.states.remove(&id);
            self.finished.push((id, completions.map_err(|source| Error::Text { request: id.0, source })?));
        }
        Ok(())
    }
}

#[cfg(all(test, feature = "cuda"))]
mod device_draws;
#[cfg(test)]
mod tests;
