//! The scheduler: what the next step computes. Pure bookkeeping without tensors.
//!
//! A step takes decodes first, then running prefills, then waiting sequences, the oldest first within each, until its token
//! budget is spent. When blocks run out, the youngest running sequence is preempted: it waits and is recomputed later, and
//! keeps its sampled ids.
//!
//! Invariants: `running` and `waiting` are ordered by age; a block that is written has one holder, and the pool knows only
//! positions before the first one written; the oldest sequence can always proceed, because each fits the pool alone.

use super::blocks::{BlockMatch, BlockPool, common};
use super::request::RequestId;
use super::sequence::{Branch, Name, Sequence};
use crate::transformer::decode::BLOCK_TOKENS;
use std::collections::VecDeque;

/// A waiting sequence keeps waiting if a running one is about to compute at least this many of its first tokens. Every
/// conversation shares the few tokens that the chat template begins with: those are not worth a step's wait.
const AWAITED_TOKENS_MIN: usize = 4;

/// What a step does besides computing the planned tokens of its sequences.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Tokens left in the budget.
    budget: usize,
    /// Blocks to copy before the step, in this order.
    pub(crate) copies: Vec<(u32, u32)>,
    /// Sequences preempted.
    pub(crate) preemptions: usize,
    /// Tokens of admitted sequences that were found in the cache.
    pub(crate) cached_tokens: usize,
    /// Cached blocks evicted to make room.
    pub(crate) evicted_blocks: usize,
}

/// The part of a waiting sequence that is cached.
#[derive(Default)]
struct Prefix {
    /// Full blocks to share, the first ones of its table.
    blocks: Vec<u32>,
    /// The next block, whose first positions match: it is extended or copied.
    tail: Option<BlockMatch>,
    /// Whether a running sequence is about to compute more of it.
    awaited: bool,
}

impl Prefix {
    fn tokens(&self) -> usize {
        self.blocks.len() * BLOCK_TOKENS + self.tail.map_or(0, |tail| tail.common)
    }
}

/// Running and waiting sequences and the blocks they hold.
#[derive(Debug)]
pub(crate) struct Scheduler {
    pool: BlockPool,
    running: Vec<Sequence>,
    waiting: VecDeque<Sequence>,
    step_tokens_max: usize,
    sequences_max: usize,
}

impl Scheduler {
    /// A scheduler over `blocks` blocks.
    pub(crate) fn new(blocks: usize, step_tokens_max: usize, sequences_max: usize) -> Self {
        Self {
            pool: BlockPool::new(blocks),
            running: Vec::new(),
            waiting: VecDeque::new(),
            step_tokens_max: step_tokens_max.max(1),
            sequences_max: sequences_max.max(1),
        }
    }

    /// The pool of KV blocks.
    pub(crate) fn pool(&self) -> &BlockPool {
        &self.pool
    }

    /// Continuations of running sequences, which hold blocks.
    pub(crate) fn running(&self) -> usize {
        self.running.iter().map(Sequence::count).sum()
    }

    /// Continuations of waiting sequences, which hold none.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.iter().map(Sequence::count).sum()
    }

    /// Whether there is nothing to compute.
    pub(crate) fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// The sequences of the planned step.
    pub(crate) fn planned(&self) -> impl Iterator<Item = &Sequence> {
        self.running.iter().filter(|s| s.planned > 0)
    }

    /// Queues a sequence by age.
    pub(crate) fn wait(&mut self, sequence: Sequence) {
        let place = self.waiting.partition_point(|s| s.name < sequence.name);
        self.waiting.insert(place, sequence);
    }

    fn run(&mut self, sequence: Sequence) -> usize {
        let place = self.running.partition_point(|s| s.name < sequence.name);
        self.running.insert(place, sequence);
        place
    }

    /// Plans a step: sets `planned` of the sequences that take part and allocates their blocks.
    pub(crate) fn schedule(&mut self) -> Plan {
        let mut plan = Plan { budget: self.step_tokens_max, ..Plan::default() };
        let evictions = self.pool.evictions();
        self.plan_running(&mut plan, true);
        self.plan_running(&mut plan, false);
        // A sequence preempted just now would be admitted only to be preempted again.
        if plan.preemptions == 0 {
            self.admit(&mut plan);
        }
        plan.evicted_blocks = self.pool.evictions() - evictions;
        plan
    }

    fn plan_running(&mut self, plan: &mut Plan, decoding: bool) {
        let mut place = 0;
        while plan.budget > 0 && place < self.running.len() {
            let sequence = &self.running[place];
            let tokens = sequence.pending().min(plan.budget);
            if sequence.planned == 0 && sequence.is_decoding() == decoding && self.make_room(place, tokens, plan) {
                self.reserve(place, tokens, plan);
            }
            place += 1;
        }
    }

    /// Preempts the youngest sequences until the one at `place` can have its blocks. False if that one was preempted itself.
    fn make_room(&mut self, place: usize, tokens: usize, plan: &mut Plan) -> bool {
        while self.pool.available() < self.blocks_wanted(&self.running[place], tokens) {
            let youngest = self.running.len() - 1;
            plan.budget += self.running[youngest].planned;
            plan.preemptions += 1;
            self.preempt(youngest);
            if youngest == place {
                return false;
            }
        }
        true
    }

    /// Blocks to allocate before `tokens` more can be written.
    fn blocks_wanted(&self, sequence: &Sequence, tokens: usize) -> usize {
        let new = (sequence.cached + tokens).div_ceil(BLOCK_TOKENS).saturating_sub(sequence.table.len());
        let shared = sequence.table.get(sequence.cached / BLOCK_TOKENS).is_some_and(|&b| self.pool.references(b) > 1);
        new + usize::from(shared)
    }

    /// Plans `tokens` of a running sequence and takes the blocks for them.
    fn reserve(&mut self, place: usize, tokens: usize, plan: &mut Plan) {
        let Self { pool, running, .. } = self;
        let sequence = &mut running[place];
        let first = sequence.cached / BLOCK_TOKENS;
        if let Some(block) = sequence.table.get_mut(first) {
            if pool.references(*block) > 1 {
                let copy = pool.allocate().expect("the caller made room for the copy");
                plan.copies.push((*block, copy));
                pool.release(*block);
                *block = copy;
            }
            debug_assert!(pool.known(*block) <= sequence.cached % BLOCK_TOKENS, "others know what is to be written");
        }
        while sequence.table.len() * BLOCK_TOKENS < sequence.cached + tokens {
            sequence.table.push(pool.allocate().expect("the caller made room for new blocks"));
        }
        sequence.planned = tokens;
        plan.budget -= tokens;
    }

    /// Admits waiting sequences while there are slots, tokens and blocks for all their known tokens.
    fn admit(&mut self, plan: &mut Plan) {
        let mut place = 0;
        while plan.budget > 0 && place < self.waiting.len() {
            let sequence = &self.waiting[place];
            // Each continuation needs its own slot as soon as it differs from its siblings.
            let taken = self.running();
            if taken > 0 && taken + sequence.count() > self.sequences_max {
                return;
            }
            let prefix = self.prefix(sequence);
            if prefix.awaited {
                place += 1;
                continue;
            }
            if !self.fits(sequence, &prefix) {
                return;
            }
            let Some(mut sequence) = self.waiting.remove(place) else { return };
            self.share(&mut sequence, prefix, plan);
            plan.cached_tokens += sequence.cached;
            let tokens = sequence.pending().min(plan.budget);
            let running = self.run(sequence);
            self.reserve(running, tokens, plan);
        }
    }

    fn prefix(&self, sequence: &Sequence) -> Prefix {
        // At least one token is computed, or there would be no logits.
        let end = sequence.tokens.len() - 1;
        let mut prefix = Prefix::default();
        while let Some(past) = sequence.past(prefix.blocks.len()).filter(|_| prefix.tokens() < end) {
            match self.pool.find(past, sequence.ids(prefix.blocks.len(), end)) {
                Some(BlockMatch { block, common: BLOCK_TOKENS, .. }) => prefix.blocks.push(block),
                tail => {
                    prefix.tail = tail;
                    break;
                }
            }
        }
        prefix.awaited = self.is_awaited(sequence, &prefix, end);
        prefix
    }

    /// Whether a running sequence is about to compute more of `sequence` than the cache holds, and enough of it.
    fn is_awaited(&self, sequence: &Sequence, prefix: &Prefix, end: usize) -> bool {
        let block = prefix.blocks.len();
        let Some(past) = sequence.past(block).filter(|_| block * BLOCK_TOKENS < end) else { return false };
        let ids = sequence.ids(block, end);
        let enough = prefix.tokens() + AWAITED_TOKENS_MIN;
        self.running.iter().filter(|s| !s.is_decoding() && s.past(block) == Some(past)).any(|s| {
            let shared = block * BLOCK_TOKENS + common(ids, s.ids(block, s.tokens.len()));
            shared >= enough && shared > s.cached
        })
    }

    /// Whether there are blocks for all known tokens of `sequence` if it shares `prefix`. (Running ones
    /// took theirs already: where tokens are left for newcomers, all of them are planned in full.)
    fn fits(&self, sequence: &Sequence, prefix: &Prefix) -> bool {
        let new = sequence.tokens.len().div_ceil(BLOCK_TOKENS) - prefix.blocks.len();
        let woken = prefix.blocks.iter().filter(|&&block| self.pool.references(block) == 0).count();
        new + woken <= self.pool.available()
    }

    /// Gives an admitted sequence the cached part of it.
    fn share(&mut self, sequence: &mut Sequence, prefix: Prefix, plan: &mut Plan) {
        let pool = &mut self.pool;
        (sequence.cached, sequence.registered) = (prefix.tokens(), prefix.blocks.len());
        sequence.table = prefix.blocks;
        sequence.table.iter().for_each(|&block| pool.retain(block));
        let Some(BlockMatch { block, open, .. }) = prefix.tail else { return };
        if open {
            pool.retain(block);
            sequence.table.push(block);
            return;
        }
        // The source may be evicted before the step, even for this very copy: copies come before all writing.
        pool.touch(block);
        let copy = pool.allocate().expect("the caller made room for the copy");
        if copy != block {
            plan.copies.push((block, copy));
        }
        sequence.table.push(copy);
    }

    /// Frees a running sequence's blocks from the last to the first, so that a prefix outlives what follows it.
    fn free(pool: &mut BlockPool, sequence: &mut Sequence) {
        for block in sequence.table.drain(..).rev() {
            pool.release(block);
        }
        (sequence.cached, sequence.registered, sequence.planned) = (0, 0, 0);
    }

    fn preempt(&mut self, place: usize) {
        let mut sequence = self.running.remove(place);
        Self::free(&mut self.pool, &mut sequence);
        self.wait(sequence);
    }

    /// Preempts every running sequence after a failed step.
    pub(crate) fn preempt_all(&mut self) {
        while !self.running.is_empty() {
            self.preempt(self.running.len() - 1);
        }
    }

    fn place(&self, name: Name) -> usize {
        self.running.binary_search_by_key(&name, |s| s.name).expect("a sequence of the step under way is running")
    }

    /// Marks the planned tokens of `name` as computed. Others can find them from now on: full blocks, and the tokens behind
    /// them that a prefill leaves.
    pub(crate) fn advance(&mut self, name: Name) {
        let place = self.place(name);
        let Self { pool, running, .. } = self;
        let sequence = &mut running[place];
        let decoded = sequence.is_decoding();
        sequence.cached += std::mem::take(&mut sequence.planned);
        sequence.extend_keys(sequence.cached);
        for block in sequence.registered..sequence.cached / BLOCK_TOKENS {
            Self::register(pool, sequence, block);
        }
        sequence.registered = sequence.cached / BLOCK_TOKENS;
        if !decoded {
            Self::register(pool, sequence, sequence.registered);
        }
    }

    /// Registers the content of a running sequence's block `block` with the pool, if there is any.
    fn register(pool: &mut BlockPool, sequence: &Sequence, block: usize) {
        if let (Some(&id), Some(past)) = (sequence.table.get(block), sequence.past(block)) {
            pool.register(id, past, sequence.ids(block, sequence.cached));
        }
    }

    /// Continues `name` with the tokens that its continuations sampled. If all sampled the same token, the sequence grows by
    /// it. Otherwise each branch becomes a sequence of its own over the shared blocks, or waits if no slot is left.
    /// Continuations that no branch names have ended. What was computed stays cached: a conversation may continue from it.
    pub(crate) fn branch(&mut self, name: Name, branches: &[Branch]) {
        let place = self.place(name);
        if let [Branch { continuations, token: Some(token) }] = branches
            && continuations.len() == self.running[place].count()
        {
            return self.running[place].tokens.push(*token);
        }
        let mut sequence = self.running.remove(place);
        Self::register(&mut self.pool, &sequence, sequence.registered);
        for mut branch in branches.iter().filter_map(|branch| sequence.branch(branch)) {
            if self.running.len() < self.sequences_max {
                branch.table.iter().for_each(|&block| self.pool.retain(block));
                self.run(branch);
            } else {
                branch.table.clear();
                (branch.cached, branch.registered) = (0, 0);
                self.wait(branch);
            }
        }
        Self::free(&mut self.pool, &mut sequence);
    }

    /// Removes all sequences of a request.
    pub(crate) fn remove(&mut self, request: RequestId) {
        let Self { pool, running, waiting, .. } = self;
        running.retain_mut(|sequence| {
            let keep = sequence.name.request != request;
            if !keep {
                Self::free(pool, sequence);
            }
            keep
        });
        waiting.retain(|sequence| sequence.name.request != request);
    }

    /// Panics unless the invariants of this file and of the pool hold between two steps.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        self.pool.check();
        assert!(self.running.is_sorted_by(|a, b| a.name < b.name) && self.running.len() <= self.sequences_max);
        assert!(self.waiting.iter().is_sorted_by(|a, b| a.name < b.name));
        assert!(self.waiting.iter().all(|s| s.table.is_empty() && s.cached == 0 && s.planned == 0));
        let mut references = vec![0; self.pool.len()];
        for sequence in &self.running {
            assert_eq!(sequence.table.len(), sequence.cached.div_ceil(BLOCK_TOKENS));
            assert!(sequence.planned == 0 && sequence.pending() > 0);
            sequence.table.iter().for_each(|&block| references[block as usize] += 1);
        }
        for (block, &count) in references.iter().enumerate() {
            assert_eq!(self.pool.references(block as u32), count, "holders of block {block}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::blocks::BlockKey;

    /// A running sequence with the first `cached` of its `tokens` computed.
    fn running(scheduler: &mut Scheduler, request: u64, tokens: usize, cached: usize) {
        let name = Name { request: RequestId(request), index: 0 };
        let prompt = vec![request as u32; if cached > 0 { cached } else { tokens }];
        let mut sequence = Sequence::new(name, prompt, 1, BlockKey::root(request));
        sequence.tokens.resize(tokens, 0);
        sequence.cached = cached;
        sequence.table.extend((0..cached.div_ceil(BLOCK_TOKENS)).filter_map(|_| scheduler.pool.allocate()));
        scheduler.run(sequence);
    }

    fn planned(scheduler: &Scheduler) -> Vec<(u64, usize)> {
        scheduler.planned().map(|s| (s.name.request.0, s.planned)).collect()
    }

    #[test]
    fn decodes_come_first_then_prefills_by_age() {
        let mut scheduler = Scheduler::new(20, 40, 8);
        running(&mut scheduler, 0, 30, 0);
        running(&mut scheduler, 1, 50, 0);
        running(&mut scheduler, 2, 66, 65);
        scheduler.schedule();
        assert_eq!(planned(&scheduler), [(0, 30), (1, 9), (2, 1)]);
    }

    #[test]
    fn the_youngest_makes_room_and_gives_its_tokens_back_to_the_budget() {
        let mut scheduler = Scheduler::new(4, 40, 8);
        running(&mut scheduler, 0, 39, 0);
        running(&mut scheduler, 1, 50, 0);
        running(&mut scheduler, 2, 66, 65);
        let plan = scheduler.schedule();
        assert_eq!((planned(&scheduler), plan.preemptions), (vec![(0, 39), (1, 1)], 1));
        assert_eq!((scheduler.waiting(), scheduler.waiting[0].tokens.len()), (1, 66), "sampled ids stay");
    }
}
