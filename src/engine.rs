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
pub mod distinct;
mod error;
mod exp;
mod logit_filter;
mod output;
#[doc(hidden)]
pub mod probe;
mod report;
mod request;
mod request_state;
pub mod sampler;
mod sampling_config;
mod scheduler;
mod sequence;

use crate::formats::tokenizer::Tokenizer;
use crate::transformer::{
    decode::BLOCK_TOKENS, decode::Batch, decode::Decoder, decode::Forward, decode::PackedAdapter,
};
use crate::types::{Completion, CriticVersion};
pub use config::EngineConfig;
pub use error::Error;
use report::lap;
pub use report::{Counters, StepReport, StepWork, Times};
pub use request::{Detokenize, Request, RequestId};
use request_state::{RequestState, Weights};
use sampler::{Draw, SamplingConfig, Scratch, Task};
use scheduler::{Plan, Scheduler};
use sequence::{Branch, Name, Sequence};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// What one sequence of a step samples: a token for each of its continuations, if its step ends its tokens.
struct Sampled {
    name: Name,
    draws: Vec<(usize, Draw)>,
    /// Log-probabilities of the request's candidates; empty where it writes a text.
    candidate_log_probs: Vec<f32>,
}

/// The engine.
pub struct Engine<F: Forward = Decoder> {
    model: F,
    decode: Detokenize,
    scheduler: Scheduler,
    states: BTreeMap<RequestId, RequestState>,
    finished: Vec<(RequestId, Vec<Completion>)>,
    /// What new critic requests are written with.
    critic: Weights,
    installations: u64,
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
            scheduler: Scheduler::new(blocks, config.step_tokens_max, config.sequences_max),
            context: config.context_tokens_max.min(blocks * BLOCK_TOKENS),
            model,
            decode,
            states: BTreeMap::new(),
            finished: Vec::new(),
            critic: Weights::base(),
            installations: 0,
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
    /// Where the prompt is empty, or leaves no room for a token in the context or in the cache.
    pub fn submit(&mut self, request: Request) -> Result<RequestId, Error> {
        let (prompt, max) = (request.prompt.len(), self.context.saturating_sub(1));
        if prompt == 0 || prompt > max {
            return Err(Error::PromptLength { prompt, max });
        }
        let id = RequestId(self.requests);
        self.requests += 1;
        let weights = if request.critic { self.critic.clone() } else { Weights::base() };
        let state = RequestState::new(request, weights, self.context - prompt);
        if state.open() > 0 {
            let name = Name { request: id, index: 0 };
            let sequence = Sequence::new(name, state.request.prompt.clone(), state.open(), state.weights.root);
            self.scheduler.wait(sequence);
            self.counters.prompt_tokens += (prompt * state.open()) as u64;
        }
        self.states.insert(id, state);
        self.finish_if_done(id)?;
        Ok(id)
    }

    /// Scores `candidates` as the next token of `prompt` under the base, without writing a text. The result is one
    /// completion: `ids` are the candidates, `log_probs` the model's own (softmax over the whole vocabulary at temperature
    /// 1, in nats), and its text is empty. It runs as a request for one greedy token, in the same batches and blocks.
    ///
    /// # Errors
    /// As [`Engine::submit`], and where there is no candidate or one is no token of the model.
    pub fn score_candidates(&mut self, prompt: Vec<u32>, candidates: Vec<u32>) -> Result<RequestId, Error> {
        let vocab = self.model.vocab();
        if let Some(&id) = candidates.iter().find(|id| **id as usize >= vocab) {
            return Err(crate::transformer::Error::TokenId { id, vocab }.into());
        }
        if candidates.is_empty() {
            return Err(crate::transformer::Error::EmptyText.into());
        }
        let sampling = SamplingConfig::greedy(1);
        let id = self.submit(Request { prompt, n: 1, sampling, stop_ids: Vec::new(), seed: 0, critic: false })?;
        let state = self.states.get_mut(&id).expect("a prompt that was taken leaves room for one token");
        state.set_candidates(candidates);
        Ok(id)
    }

    /// Drops a request, finished or not, and frees its blocks.
    pub fn cancel(&mut self, id: RequestId) {
        self.scheduler.remove(id);
        self.states.remove(&id);
        self.finished.retain(|(finished, _)| *finished != id);
    }

    /// Makes `version` the newest critic; older ones live until their last sequence ends.
    /// A version without adapter is the base (rollback to v0).
    pub fn install(&mut self, version: CriticVersion, adapter: Option<Arc<PackedAdapter>>) {
        self.critic = match adapter {
            None => Weights::base(),
            Some(adapter) => {
                self.installations += 1;
                Weights::critic(version, adapter, self.installations)
            }
        };
    }

    /// Whether there is anything to compute.
    pub fn is_idle(&self) -> bool {
        self.scheduler.is_idle()
    }

    /// One step: schedule, run, sample, report.
    ///
    /// # Errors
    /// Where the model fails or computes no distribution. The step is then undone: its sequences are
    /// recomputed by the next one, to the same result; cancel the request that [`Error::Logits`] names.
    pub fn step(&mut self) -> Result<StepReport, Error> {
        let mut clock = Instant::now();
        let plan = self.scheduler.schedule();
        self.fill_batch();
        let mut report = self.report(&plan);
        report.times.bookkeeping = lap(&mut clock);
        self.run(&plan, &mut report, clock).inspect_err(|_| self.scheduler.preempt_all())?;
        self.counters.add(&report);
        Ok(report)
    }

    fn run(&mut self, plan: &Plan, report: &mut StepReport, mut clock: Instant) -> Result<(), Error> {
        self.compute(plan)?;
        report.times.model = lap(&mut clock);
        let sampled = self.sample()?;
        report.times.sampling = lap(&mut clock);
        self.write(sampled, report)?;
        report.times.bookkeeping += lap(&mut clock);
        Ok(())
    }

    /// Finished requests, in the order in which they finished.
    pub fn take_finished(&mut self) -> Vec<(RequestId, Vec<Completion>)> {
        std::mem::take(&mut self.finished)
    }

    /// The newest critic: what a critic request submitted now is written with.
    pub fn critic_version(&self) -> CriticVersion {
        self.critic.version
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
        let pool = self.scheduler.pool();
        1.0 - pool.available() as f64 / pool.len().max(1) as f64
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
            preemptions: plan.preemptions,
            cached_tokens: plan.cached_tokens,
            shared_tokens: self.scheduler.planned().map(|s| s.planned * s.siblings.len()).sum(),
            copied_blocks: plan.copies.len(),
            evicted_blocks: plan.evicted_blocks,
            work: StepWork::of(&self.batch),
            ..StepReport::default()
        }
    }

    fn fill_batch(&mut self) {
        self.batch.clear();
        for sequence in self.scheduler.planned() {
            let tokens = &sequence.tokens[sequence.cached..sequence.cached + sequence.planned];
            let adapter = self.states[&sequence.name.request].weights.adapter.as_ref();
            self.batch.push(tokens, sequence.cached, &sequence.table, adapter, sequence.samples());
        }
    }

    /// Computes the planned tokens: a row of logits for each sequence that samples.
    fn compute(&mut self, plan: &Plan) -> Result<(), Error> {
        if self.batch.spans.is_empty() {
            return Ok(());
        }
        if !plan.copies.is_empty() {
            self.model.copy_blocks(&plan.copies)?;
        }
        let done = self.model.step(&self.batch, &mut self.logits);
        // A batch must not keep a superseded adapter alive.
        self.batch.adapters.clear();
        Ok(done?)
    }

    /// Samples for every planned sequence that reached its last token: one row, from which each of its
    /// continuations draws its own token.
    fn sample(&mut self) -> Result<Vec<Sampled>, Error> {
        let mut names = Vec::new();
        let mut tasks = Vec::new();
        for (row, sequence) in self.scheduler.planned().filter(|s| s.samples()).enumerate() {
            let Request { sampling, seed, .. } = &self.states[&sequence.name.request].request;
            for index in sequence.continuations() {
                let uniform = sampler::uniform(*seed, index as u64, sequence.sampled() as u64);
                tasks.push(Task { row, config: sampling, uniform });
                names.push(Name { index, ..sequence.name });
            }
        }
        let draws = sampler::draw_all(&self.logits, self.model.vocab(), &tasks, &mut self.scratch);
        let mut drawn = names.iter().zip(draws);
        let mut rows = self.logits.chunks_exact(self.model.vocab());
        let mut sampled = Vec::new();
        for sequence in self.scheduler.planned() {
            let count = if sequence.samples() { sequence.count() } else { 0 };
            let draws = drawn.by_ref().take(count).map(|(&Name { request, index }, draw)| {
                draw.map(|draw| (index, draw)).ok_or(Error::Logits { request: request.0, index })
            });
            let draws = draws.collect::<Result<Vec<_>, _>>()?;
            let row = draws.first().and_then(|&(_, draw)| Some((draw, rows.next()?)));
            let candidates = self.states[&sequence.name.request].candidates();
            let candidate_log_probs =
                row.map_or(Vec::new(), |(draw, row)| candidates::log_probs(row, draw, candidates));
            sampled.push(Sampled { name: sequence.name, draws, candidate_log_probs });
        }
        Ok(sampled)
    }

    /// Records what a step computed and sampled.
    fn write(&mut self, step: Vec<Sampled>, report: &mut StepReport) -> Result<(), Error> {
        for Sampled { name, draws, candidate_log_probs } in step {
            self.scheduler.advance(name);
            if draws.is_empty() {
                continue;
            }
            report.sampled_tokens += draws.len();
            let mut branches: Vec<Branch> = Vec::new();
            let mut failed = None;
            let state = self.states.get_mut(&name.request).expect("a request has a state until it is finished");
            state.set_log_probs(candidate_log_probs);
            for (index, draw) in draws {
                // After a failure the rest is left unwritten and sampled again by the next step.
                let done = if failed.is_none() { state.push(index, draw, &self.decode) } else { Ok(false) };
                let ended = done.unwrap_or_else(|error| {
                    failed = Some(error);
                    false
                });
                let token = failed.is_none().then_some(draw.id);
                match branches.iter_mut().find(|branch| branch.token == token) {
                    _ if ended => {}
                    Some(branch) => branch.continuations.push(index),
                    None => branches.push(Branch { continuations: vec![index], token }),
                }
            }
            self.scheduler.branch(name, &branches);
            if let Some(error) = failed {
                return Err(error.into());
            }
            self.finish_if_done(name.request)?;
        }
        Ok(())
    }

    /// Finishes a request once all its continuations have ended.
    fn finish_if_done(&mut self, id: RequestId) -> Result<(), Error> {
        if let Some(state) = self.states.get(&id).filter(|state| state.open() == 0) {
            self.finished.push((id, state.completions(&self.decode)?));
            self.states.remove(&id);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
