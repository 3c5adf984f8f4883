//! Reports of the engine: one step's, and counters over all steps.

use crate::transformer::decode::Batch;
use crate::types::Origin;
use std::ops::AddAssign;
use std::time::{Duration, Instant};

/// The amount of computation of a step: arithmetic and memory traffic follow from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepWork {
    /// Tokens whose keys and values were computed.
    pub tokens: u64,
    /// Those of them that an adapter's branches were computed for, beside the base's weights.
    pub adapted_tokens: u64,
    /// Pairs of a computed token and a token it attends to, itself included.
    pub attended_pairs: u64,
    /// Tokens whose keys and values were read: each sequence's context, once a step.
    pub context_tokens: u64,
    /// Rows of logits.
    pub logit_rows: u64,
}

impl StepWork {
    /// What `batch` asks for.
    pub(crate) fn of(batch: &Batch) -> Self {
        let mut work = Self::default();
        for span in &batch.spans {
            let (len, cached) = (span.len as u64, span.cached as u64);
            work += Self {
                tokens: len,
                adapted_tokens: if batch.is_adapted(span) { len } else { 0 },
                attended_pairs: len * cached + len * (len + 1) / 2,
                context_tokens: cached + len,
                logit_rows: span.logit_rows as u64,
            };
        }
        work
    }
}

impl AddAssign for StepWork {
    fn add_assign(&mut self, other: Self) {
        self.tokens += other.tokens;
        self.adapted_tokens += other.adapted_tokens;
        self.attended_pairs += other.attended_pairs;
        self.context_tokens += other.context_tokens;
        self.logit_rows += other.logit_rows;
    }
}

/// Time by kind of work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// Scheduling, blocks, texts and everything else that is neither of the two below.
    pub bookkeeping: Duration,
    /// The model.
    pub model: Duration,
    /// From logits to tokens.
    pub sampling: Duration,
}

impl Times {
    /// The sum.
    pub fn total(&self) -> Duration {
        self.bookkeeping + self.model + self.sampling
    }
}

impl AddAssign for Times {
    fn add_assign(&mut self, other: Self) {
        self.bookkeeping += other.bookkeeping;
        self.model += other.model;
        self.sampling += other.sampling;
    }
}

/// The time since `clock`, which is reset.
pub(crate) fn lap(clock: &mut Instant) -> Duration {
    let now = Instant::now();
    now - std::mem::replace(clock, now)
}

/// How long a request has waited so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestWait {
    /// Who asked.
    pub origin: Origin,
    /// The time since the request was accepted.
    pub waited: Duration,
}

/// What one step did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepReport {
    /// Prompt tokens computed, and sampled ones computed again after a preemption.
    pub prefill_tokens: usize,
    /// Tokens sampled.
    pub sampled_tokens: usize,
    /// Those of them that were sampled for requests over HTTP.
    pub http_tokens: usize,
    /// Requests whose first tokens begin to be computed.
    pub admitted: Vec<RequestWait>,
    /// Requests that got their first tokens.
    pub first_tokens: Vec<RequestWait>,
    /// Sequences preempted, to be recomputed.
    pub preemptions: usize,
    /// Prompt tokens found in the cache (after a preemption, sampled ones too).
    pub cached_tokens: usize,
    /// Tokens that were not computed because a sibling had computed the same ones: prompt tokens, and sampled tokens while
    /// siblings sampled alike.
    pub shared_tokens: usize,
    /// Blocks copied because others still read them.
    pub copied_blocks: usize,
    /// Cached blocks evicted for new content.
    pub evicted_blocks: usize,
    /// The amount of computation.
    pub work: StepWork,
    /// Time by kind of work.
    pub times: Times,
}

impl StepReport {
    /// Counts `tokens` sampled for a request of `origin`; `waited` is given with its first ones.
    pub(crate) fn count(&mut self, origin: Origin, tokens: usize, waited: Option<Duration>) {
        self.sampled_tokens += tokens;
        self.http_tokens += if origin == Origin::Http { tokens } else { 0 };
        self.first_tokens.extend(waited.map(|waited| RequestWait { origin, waited }));
    }
}

/// Sums over all steps since the start, or since the counters were taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Steps that computed something.
    pub steps: u64,
    /// Prompt tokens of all requests, each times its continuations: what would be computed without any sharing.
    pub prompt_tokens: u64,
    /// Tokens computed that were not sampled just before, recomputed ones included.
    pub prefill_tokens: u64,
    /// Tokens found in the cache when their sequence was admitted.
    pub cached_tokens: u64,
    /// Tokens that were not computed because a sibling had computed the same ones: prompt tokens, and sampled tokens while
    /// siblings sampled alike.
    pub shared_tokens: u64,
    /// Tokens sampled.
    pub sampled_tokens: u64,
    /// Those of them that were sampled by steps without any prefill, and the time of these steps.
    pub decoded: (u64, Duration),
    /// Sequences preempted because blocks ran out.
    pub preemptions: u64,
    /// Blocks copied because others still read them.
    pub copied_blocks: u64,
    /// Cached blocks evicted for new content.
    pub evicted_blocks: u64,
    /// The amount of computation.
    pub work: StepWork,
    /// Time by kind of work.
    pub times: Times,
}

impl Counters {
    /// Adds a step.
    pub(crate) fn add(&mut self, report: &StepReport) {
        self.steps += u64::from(report.work.tokens > 0);
        self.prefill_tokens += report.prefill_tokens as u64;
        self.cached_tokens += report.cached_tokens as u64;
        self.shared_tokens += report.shared_tokens as u64;
        self.sampled_tokens += report.sampled_tokens as u64;
        if report.prefill_tokens == 0 {
            self.decoded.0 += report.sampled_tokens as u64;
            self.decoded.1 += report.times.total();
        }
        self.preemptions += report.preemptions as u64;
        self.copied_blocks += report.copied_blocks as u64;
        self.evicted_blocks += report.evicted_blocks as u64;
        self.work += report.work;
        self.times += report.times;
    }
}
