//! The scheduler: what the next step computes. Pure bookkeeping without tensors.
//!
//! A step takes decodes first, then running prefills, then waiting sequences, the oldest first within each, until its token
//! budget is spent. When blocks run out, the youngest running sequence is preempted: it waits and is recomputed later, and
//! keeps its sampled ids. Where rollouts and HTTP both have work, each gets its share of the tokens and of the slots, and
//! what the other leaves; HTTP sits steps out where it adds more than its share to their time. Sampled ids do not depend on
//! it.
//!
//! Invariants: `running` and `waiting` are ordered by age; a block that is written has one holder, and the pool knows only
//! positions before the first one written; the oldest sequence can always proceed, because each fits the pool alone.

use super::blocks::{BlockMatch, BlockPool};
use super::plan::{HttpShare, Plan};
use super::prefix::Prefix;
use super::request::RequestId;
use super::sequence::{Branch, Name, Sequence};
use super::turns::HttpTurns;
use crate::transformer::decode::BLOCK_TOKENS;
use crate::types::Origin;
use std::collections::VecDeque;

/// Running and waiting sequences and the blocks they hold.
#[derive(Debug)]
pub(crate) struct Scheduler {
    pool: BlockPool,
    running: Vec<Sequence>,
    /// By origin.
    waiting: [VecDeque<Sequence>; 2],
    step_tokens_max: usize,
    sequences_max: usize,
    share: HttpShare,
    turns: HttpTurns,
}

impl Scheduler {
    /// A scheduler over `blocks` blocks. Requests over HTTP get `http_share` of a step where rollouts have work too.
    pub(crate) fn new(blocks: usize, step_tokens_max: usize, sequences_max: usize, http_share: f64) -> Self {
        Self {
            pool: BlockPool::new(blocks),
            running: Vec::new(),
            waiting: [VecDeque::new(), VecDeque::new()],
            step_tokens_max: step_tokens_max.max(1),
            sequences_max: sequences_max.max(1),
            share: HttpShare::new(http_share),
            turns: HttpTurns::default(),
        }
    }

    /// Sets the share of requests over HTTP.
    pub(crate) fn set_share(&mut self, http_share: f64) {
        self.share = HttpShare::new(http_share);
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
        self.waiting.iter().flatten().map(Sequence::count).sum()
    }

    /// Most continuations that run at once.
    pub(crate) fn sequences_max(&self) -> usize {
        self.sequences_max
    }

    /// Whether there is nothing to compute.
    pub(crate) fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.iter().all(VecDeque::is_empty)
    }

    /// The sequences of the planned step.
    pub(crate) fn planned(&self) -> impl Iterator<Item = &Sequence> {
        self.running.iter().filter(|s| s.planned > 0)
    }

    /// Queues a sequence by age.
    pub(crate) fn wait(&mut self, sequence: Sequence) {
        let waiting = &mut self.waiting[sequence.origin as usize];
        let place = waiting.partition_point(|s| s.name < sequence.name);
        waiting.insert(place, sequence);
    }

    fn run(&mut self, sequence: Sequence) -> usize {
        let place = self.running.partition_point(|s| s.name < sequence.name);
        self.running.insert(place, sequence);
        place
    }

    /// Plans a step: sets `planned` of the sequences that take part and allocates their blocks.
    pub(crate) fn schedule(&mut self) -> Plan {
        let mut plan = Plan::new(self.step_tokens_max, self.reserved());
        let evictions = self.pool.evictions();
        plan.without_http = plan.shared && self.turns.sits_out();
        self.plan_all(&mut plan);
        if plan.without_http && self.planned().next().is_none() {
            // Rollouts wait for blocks or a prefix of requests over HTTP.
            plan.without_http = false;
            self.plan_all(&mut plan);
        }
        if plan.budget > 0 && plan.shared {
            // One could not use what was reserved for it: the other may.
            plan.reserved = [0; 2];
            self.plan_all(&mut plan);
        }
        plan.evicted_blocks = self.pool.evictions() - evictions;
        plan.planned = Origin::BOTH.map(|origin| self.of_origin(origin).map(|s| s.planned).sum());
        plan
    }

    /// Takes note of how long the step of `plan` took.
    pub(crate) fn took(&mut self, plan: &Plan, seconds: f64) {
        self.turns.count(self.share, plan.planned, plan.shared, seconds);
    }

    /// The tokens of a step that each origin is sure of.
    fn reserved(&self) -> [usize; 2] {
        let wants = |origin: Origin| {
            let waiting = self.waiting[origin as usize].iter();
            self.of_origin(origin).chain(waiting).map(Sequence::pending).sum::<usize>()
        };
        // Most nodes serve nobody over HTTP: then the rest need not be counted.
        match wants(Origin::Http) {
            0 => [0; 2],
            http => self.share.reserved(self.step_tokens_max, [wants(Origin::Rollout), http]),
        }
    }

    /// Running sequences of `origin`.
    fn of_origin(&self, origin: Origin) -> impl Iterator<Item = &Sequence> {
        self.running.iter().filter(move |s| s.origin == origin)
    }

    fn plan_all(&mut self, plan: &mut Plan) {
        self.plan_running(plan, true);
        self.plan_running(plan, false);
        // A sequence preempted just now would be admitted only to be preempted again.
        if plan.preemptions == 0 {
            self.admit(plan);
        }
    }

    fn plan_running(&mut self, plan: &mut Plan, decoding: bool) {
        let mut place = 0;
        while plan.budget > 0 && place < self.running.len() {
            let sequence = &self.running[place];
            let tokens = plan.tokens(sequence);
            if tokens > 0 && sequence.is_decoding() == decoding && self.make_room(place, tokens, plan) {
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
        let new =
            (sequence.cached + sequence.planned + tokens).div_ceil(BLOCK_TOKENS).saturating_sub(sequence.table.len());
        let shared = sequence.table.get(sequence.cached / BLOCK_TOKENS).is_some_and(|&b| self.pool.references(b) > 1);
        new + usize::from(shared)
    }

    /// Plans `tokens` more of a running sequence and takes the blocks for them.
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
        while sequence.table.len() * BLOCK_TOKENS < sequence.cached + sequence.planned + tokens {
            sequence.table.push(pool.allocate().expect("the caller made room for new blocks"));
        }
        sequence.planned += tokens;
        plan.take(sequence, tokens);
    }

    /// Admits waiting sequences while there are slots, tokens and blocks for all their known tokens.
    fn admit(&mut self, plan: &mut Plan) {
        let mut places = [0; 2];
        while let Some(origin) = self.next(places, plan) {
            let place = places[origin as usize];
            let sequence = &self.waiting[origin as usize][place];
            // Each continuation needs its own slot as soon as it differs from its siblings.
            let taken = self.running();
            if taken > 0 && taken + sequence.count() > self.sequences_max {
                return;
            }
            let prefix = Prefix::of(sequence, &self.pool, &self.running);
            if prefix.awaited {
                places[origin as usize] += 1;
                continue;
            }
            if !self.fits(sequence, &prefix) {
                return;
            }
            let Some(mut sequence) = self.waiting[origin as usize].remove(place) else { return };
            self.share(&mut sequence, prefix, plan);
            plan.cached_tokens += sequence.cached;
            let tokens = plan.tokens(&sequence);
            let running = self.run(sequence);
            self.reserve(running, tokens, plan);
        }
    }

    /// The origin whose waiting sequence, at its place in `places`, is to be admitted next. Where both have one, that of fewer
    /// running continuations for its share; but a sequence that is older than all running ones never stands back.
    fn next(&self, places: [usize; 2], plan: &Plan) -> Option<Origin> {
        let head = |origin: Origin| {
            let sequence = self.waiting[origin as usize].get(places[origin as usize])?;
            (plan.tokens(sequence) > 0).then_some(sequence.name)
        };
        let (Some(rollout), Some(http)) = (head(Origin::Rollout), head(Origin::Http)) else {
            return Origin::BOTH.into_iter().find(|&origin| head(origin).is_some());
        };
        let older = if rollout < http { Origin::Rollout } else { Origin::Http };
        if self.running.first().is_none_or(|oldest| rollout.min(http) < oldest.name) {
            return Some(older);
        }
        let running = Origin::BOTH.map(|origin| self.of_origin(origin).map(Sequence::count).sum());
        self.share.behind(running).or(Some(older))
    }

    /// Whether there are blocks for all known tokens of `sequence` if it shares `prefix`, beside those that running ones
    /// need for theirs.
    fn fits(&self, sequence: &Sequence, prefix: &Prefix) -> bool {
        let new = |s: &Sequence, held: usize| s.tokens.len().div_ceil(BLOCK_TOKENS) - held;
        let woken = prefix.blocks.iter().filter(|&&block| self.pool.references(block) == 0).count();
        let unplanned = self.running.iter().filter(|s| s.planned < s.pending());
        let owed = unplanned.map(|s| new(s, s.table.len())).sum::<usize>();
        new(sequence, prefix.blocks.len()) + woken + owed <= self.pool.available()
    }

    /// Gives an admitted sequence the cached part of it.
    fn share(&mut self, sequence: &mut Sequence, prefix: Prefix, plan: &mut Plan) {
        let pool = &mut self.pool;
        (sequence.cached, sequence.registered) = (prefix.tokens(), prefix.blocks.len());
        if sequence.found.is_none() {
            plan.admitted.push(sequence.name.request);
        }
        sequence.found = sequence.found.or(Some(sequence.cached));
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
        sequence.advance();
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
        waiting.iter_mut().for_each(|waiting| waiting.retain(|sequence| sequence.name.request != request));
    }

    /// Panics unless the invariants of this file and of the pool hold between two steps.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        self.pool.check();
        assert!(self.running.is_sorted_by(|a, b| a.name < b.name) && self.running.len() <= self.sequences_max);
        assert!(self.waiting.iter().all(|waiting| waiting.iter().is_sorted_by(|a, b| a.name < b.name)));
        assert!(self.waiting.iter().flatten().all(|s| s.table.is_empty() && s.cached == 0 && s.planned == 0));
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
        let mut scheduler = Scheduler::new(20, 40, 8, 0.5);
        running(&mut scheduler, 0, 30, 0);
        running(&mut scheduler, 1, 50, 0);
        running(&mut scheduler, 2, 66, 65);
        scheduler.schedule();
        assert_eq!(planned(&scheduler), [(0, 30), (1, 9), (2, 1)]);
    }

    #[test]
    fn the_youngest_makes_room_and_gives_its_tokens_back_to_the_budget() {
        let mut scheduler = Scheduler::new(4, 40, 8, 0.5);
        running(&mut scheduler, 0, 39, 0);
        running(&mut scheduler, 1, 50, 0);
        running(&mut scheduler, 2, 66, 65);
        let plan = scheduler.schedule();
        assert_eq!((planned(&scheduler), plan.preemptions), (vec![(0, 39), (1, 1)], 1));
        assert_eq!((scheduler.waiting(), scheduler.waiting[0][0].tokens.len()), (1, 66), "sampled ids stay");
    }
}
