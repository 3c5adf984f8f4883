//! Writes tokens for many sequences at once: continuous batching over a paged KV cache.
//!
//! Knows ids and weights, not text (but for stop strings) and no actor; takes no lock.
//!
//! Invariants: what a request gets depends on itself alone, never on who ran beside it; all of a
//! completion is written by one version; no block computed by one installation of weights is read by
//! another; a request that is done or cancelled holds no block.

mod blocks;
mod candidates;
pub mod distinct;
mod exp;
mod logit_filter;
mod output;
#[doc(hidden)]
pub mod probe;
mod report;
mod request_state;
pub mod sampler;
mod scheduler;
mod sequence;

use crate::formats::tokenizer::Tokenizer;
use crate::kernels::Precision;
use crate::transformer::{
    decode::BLOCK_TOKENS, decode::Batch, decode::Decoder, decode::Forward, decode::PackedAdapter,
};
use crate::types::{Completion, CriticVersion};
use report::lap;
pub use report::{Counters, StepReport, Times, Work};
use request_state::{RequestState, Weights};
use sampler::{Draw, SamplingConfig, Scratch, Task};
use scheduler::{Plan, Scheduler};
use sequence::{Branch, Name, Sequence};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// Limits of the engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineConfig {
    /// Tokens of one step: decodes first, the rest goes to waiting prefills.
    pub step_tokens_max: usize,
    /// Sequences that decode at once.
    pub sequences_max: usize,
    /// Longest prompt and completion together, in tokens.
    pub context_tokens_max: usize,
    /// Memory of the KV cache, in MiB.
    pub kv_cache_mib: usize,
    /// How the decode pass keeps the weights.
    pub weights: Precision,
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
    /// Write with the newest installed critic instead of the base.
    pub critic: bool,
}

/// Names a request inside the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// Why a request was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request can never fit.
    #[error("prompt of {prompt} tokens: expected 1 to {max}")]
    PromptLength {
        /// Its length in tokens.
        prompt: usize,
        /// What fits.
        max: usize,
    },
    /// The model computed something that is no distribution; cancel the request.
    #[error("request {request}, continuation {index}: expected finite logits, got NaN, infinity or nothing above -inf")]
    Logits {
        /// The request's number.
        request: u64,
        /// Which of its continuations.
        index: usize,
    },
    /// The model failed.
    #[error(transparent)]
    Model(#[from] crate::formats::Error),
}

/// Text of ids, special tokens left out.
pub type Detokenize = Box<dyn Fn(&[u32]) -> crate::formats::Result<String> + Send>;

/// What one sequence of a step samples: a token for each of its continuations, if its step ends its tokens.
struct Sampled {
    name: Name,
    draws: Vec<(usize, Draw)>,
    /// Log-probabilities of the tokens that it weighs; empty where it writes.
    weighed: Vec<f32>,
}

/// The engine.
pub struct Engine<F: Forward = Decoder> {
    model: F,
    decode: Detokenize,
    scheduler: Scheduler,
    jobs: BTreeMap<RequestId, RequestState>,
    finished: Vec<(RequestId, Vec<Completion>)>,
    /// What new critic requests are written with.
    critic: Weights,
    installations: u64,
    requests: u64,
    /// Longest prompt and completion together, by the config and by the cache.
    context: usize,
    counters: Counters,
    scratch: Vec<Scratch>,
    /// The step's tokens and logits; kept for their memory.
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
            jobs: BTreeMap::new(),
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

    /// Takes a request. The critic's version is fixed here.
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
        let job = RequestState::new(request, weights, self.context - prompt);
        if job.open() > 0 {
            let name = Name { request: id, index: 0 };
            let sequence = Sequence::new(name, job.request.prompt.clone(), job.open(), job.weights.root);
            self.scheduler.wait(sequence);
            self.counters.prompt_tokens += (prompt * job.open()) as u64;
        }
        self.jobs.insert(id, job);
        self.finish_if_done(id)?;
        Ok(id)
    }

    /// Forgets a request, done or not, and frees its blocks.
    pub fn cancel(&mut self, id: RequestId) {
        self.scheduler.remove(id);
        self.jobs.remove(&id);
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

    /// Requests all of whose continuations have ended, in the order of their ends.
    pub fn take_finished(&mut self) -> Vec<(RequestId, Vec<Completion>)> {
        std::mem::take(&mut self.finished)
    }

    /// The newest critic: what a critic request submitted now is written with.
    pub fn critic_version(&self) -> CriticVersion {
        self.critic.version
    }

    /// Continuations under way.
    pub fn running(&self) -> usize {
        self.scheduler.running()
    }

    /// Continuations that wait for a slot, for blocks or for a prefix that another is computing.
    pub fn waiting(&self) -> usize {
        self.scheduler.waiting()
    }

    /// Share of the KV blocks that sequences hold, in `[0, 1]`.
    pub fn kv_usage(&self) -> f64 {
        let pool = self.scheduler.pool();
        1.0 - pool.available() as f64 / pool.len().max(1) as f64
    }

    /// What was done since the start, or since the counters were taken.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// What was done since the start or the last taking: they count from zero again, and the cache stays as it is.
    pub fn take_counters(&mut self) -> Counters {
        std::mem::take(&mut self.counters)
    }

    /// What the planned step will have done, but for what it samples.
    fn report(&self, plan: &Plan) -> StepReport {
        StepReport {
            prefill_tokens: self.scheduler.planned().filter(|s| !s.is_decoding()).map(|s| s.planned).sum(),
            preemptions: plan.preemptions,
            cached_tokens: plan.cached_tokens,
            shared_tokens: self.scheduler.planned().map(|s| s.planned * s.siblings.len()).sum(),
            copied_blocks: plan.copies.len(),
            evicted_blocks: plan.evicted_blocks,
            work: Work::of(&self.batch),
            ..StepReport::default()
        }
    }

    fn fill_batch(&mut self) {
        self.batch.clear();
        for sequence in self.scheduler.planned() {
            let tokens = &sequence.tokens[sequence.cached..sequence.cached + sequence.planned];
            let adapter = self.jobs[&sequence.name.request].weights.adapter.as_ref();
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
            let Request { sampling, seed, .. } = &self.jobs[&sequence.name.request].request;
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
            let candidates = self.jobs[&sequence.name.request].candidates();
            let weighed = row.map_or(Vec::new(), |(draw, row)| candidates::log_probs(row, draw, candidates));
            sampled.push(Sampled { name: sequence.name, draws, weighed });
        }
        Ok(sampled)
    }

    /// Writes down what a step computed and sampled.
    fn write(&mut self, step: Vec<Sampled>, report: &mut StepReport) -> Result<(), Error> {
        for Sampled { name, draws, weighed } in step {
            self.scheduler.advance(name);
            if draws.is_empty() {
                continue;
            }
            report.sampled_tokens += draws.len();
            let mut branches: Vec<Branch> = Vec::new();
            let mut failed = None;
            let job = self.jobs.get_mut(&name.request).expect("a request has a job until it is done");
            job.weighed(weighed);
            for (index, draw) in draws {
                // After a failure what is not written yet stays where it is, to be sampled again.
                let done = if failed.is_none() { job.push(index, draw, &self.decode) } else { Ok(false) };
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
            self.scheduler.part(name, &branches);
            if let Some(error) = failed {
                return Err(error.into());
            }
            self.finish_if_done(name.request)?;
        }
        Ok(())
    }

    /// Hands a request out if all its continuations have ended.
    fn finish_if_done(&mut self, id: RequestId) -> Result<(), Error> {
        if let Some(job) = self.jobs.get(&id).filter(|job| job.open() == 0) {
            self.finished.push((id, job.completions(&self.decode)?));
            self.jobs.remove(&id);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
