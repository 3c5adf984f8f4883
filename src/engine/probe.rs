//! What the benches drive: scheduler, block pool and sampler in a steady state, without a model.
//!
//! Not part of the crate's interface.

use super::blocks::{BlockKey, BlockPool};
use super::request::RequestId;
use super::sampler::{self, SamplingConfig, Scratch, Task};
use super::scheduler::Scheduler;
use super::sequence::{Branch, Name, Sequence};
use crate::transformer::decode::BLOCK_TOKENS;

/// A constant number of decoding sequences: one that reaches the length ends, and a new one takes its place.
pub struct Scheduling {
    scheduler: Scheduler,
    length: usize,
    requests: u64,
}

impl Scheduling {
    /// `sequences` with prompts of half of `length` tokens, prefilled, that end at `length`.
    pub fn new(sequences: usize, length: usize) -> Self {
        let blocks = (sequences + 1) * (length.div_ceil(BLOCK_TOKENS) + 1);
        let scheduler = Scheduler::new(blocks, sequences.max(length), sequences, 0.5);
        let mut scheduling = Self { scheduler, length, requests: 0 };
        (0..sequences).for_each(|_| scheduling.submit());
        // One prompt a step is prefilled.
        (0..sequences).for_each(|_| scheduling.step());
        scheduling
    }

    fn submit(&mut self) {
        let name = Name { request: RequestId(self.requests), index: 0 };
        let prompt = (0..self.length / 2).map(|at| (at as u64 * 31 + self.requests * 17) as u32 % 50_000).collect();
        self.requests += 1;
        self.scheduler.wait(Sequence::new(name, prompt, 1, BlockKey::root(0)));
    }

    /// Plans a step and records that it was computed and that each sequence sampled a token.
    pub fn step(&mut self) {
        self.scheduler.schedule();
        let planned = self.scheduler.planned().map(|s| (s.name, s.samples(), s.tokens.len() >= self.length));
        let planned: Vec<(Name, bool, bool)> = planned.collect();
        for (name, samples, ends) in planned {
            self.scheduler.advance(name);
            match (samples, ends) {
                (true, true) => {
                    self.scheduler.branch(name, &[]);
                    self.submit();
                }
                (true, false) => {
                    let token = Some(name.request.0 as u32);
                    self.scheduler.branch(name, &[Branch { continuations: vec![0], token }]);
                }
                (false, _) => {}
            }
        }
    }
}

/// A pool whose blocks are all cached, so that each new content evicts an old one.
pub struct Pool {
    pool: BlockPool,
    next: u32,
}

impl Pool {
    /// Of `blocks` blocks.
    pub fn new(blocks: usize) -> Self {
        let mut pool = Self { pool: BlockPool::new(blocks), next: 0 };
        (0..blocks).for_each(|_| pool.turn());
        pool
    }

    /// Looks for a content, allocates a block for it, registers and releases it.
    pub fn turn(&mut self) {
        let mut ids = [7; BLOCK_TOKENS];
        ids[BLOCK_TOKENS / 2] = self.next;
        self.next += 1;
        let past = BlockKey::root(0);
        if self.pool.find(past, &ids).is_none_or(|found| found.common < BLOCK_TOKENS)
            && let Some(block) = self.pool.allocate()
        {
            self.pool.register(block, past, &ids);
            self.pool.release(block);
        }
    }
}

/// The key behind a block of ids: the least that a full block costs.
pub fn key(ids: &[u32; BLOCK_TOKENS]) -> impl Copy + use<> {
    BlockKey::root(0).child(ids)
}

/// Rows to sample with one config.
pub struct Sampling {
    logits: Vec<f32>,
    vocab: usize,
    config: SamplingConfig,
    scratch: Vec<Scratch>,
}

impl Sampling {
    /// Rows of `vocab` logits.
    pub fn new(logits: Vec<f32>, vocab: usize, config: SamplingConfig) -> Self {
        Self { logits, vocab, config, scratch: Vec::new() }
    }

    /// Samples a token from each row; how many were drawn.
    pub fn draw(&mut self) -> usize {
        let rows = self.logits.len() / self.vocab;
        let task = |row| Task { row, config: &self.config, uniform: sampler::uniform(1, row as u64, 0) };
        let tasks: Vec<Task<'_>> = (0..rows).map(task).collect();
        sampler::draw_all(&self.logits, self.vocab, &tasks, &mut self.scratch).iter().flatten().count()
    }
}
