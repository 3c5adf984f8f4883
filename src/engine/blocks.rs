//! The pool of KV blocks: reference counts, contents and eviction.
//!
//! Knows block numbers and contents; no tensor, no sequence. A block's content is the token ids of its first positions,
//! under the key of all tokens before them. A block can be found once its first position is computed, by any sequence
//! that shares at least that position.
//!
//! Invariants: a block is either held (references > 0), cached (not held, content known) or free; no known content is
//! a prefix of another under the same key; a cached block is evicted only if no block is free, the least recently used
//! first.

use crate::transformer::decode::BLOCK_TOKENS;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// Identifies everything before a block: the ids of all earlier blocks, and the weights that computed them.
///
/// 128 bits of a chained SHA-256. Collisions are practically impossible, so a lookup compares only the block's own
/// ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct BlockKey(u128);

impl BlockKey {
    /// The start of the chain for one set of weights. Each installation has its own number.
    pub(crate) fn root(installation: u64) -> Self {
        Self::digest(Sha256::new().chain_update(b"root").chain_update(installation.to_le_bytes()))
    }

    /// The key of the tokens after the full block `ids`, whose own key is `self`.
    pub(crate) fn child(self, ids: &[u32]) -> Self {
        debug_assert_eq!(ids.len(), BLOCK_TOKENS, "only full blocks have something behind them");
        let mut bytes = [0u8; 4 * BLOCK_TOKENS];
        for (bytes, id) in bytes.chunks_exact_mut(4).zip(ids) {
            bytes.copy_from_slice(&id.to_le_bytes());
        }
        Self::digest(Sha256::new().chain_update(self.0.to_le_bytes()).chain_update(bytes))
    }

    fn digest(hasher: Sha256) -> Self {
        let digest = hasher.finalize();
        let mut low = [0; 16];
        low.copy_from_slice(&digest[..16]);
        Self(u128::from_le_bytes(low))
    }
}

/// The content of a block's first positions. Ordered by past, then lexicographically by ids: the content that shares
/// most with another is its direct neighbour.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct BlockContent {
    past: BlockKey,
    ids: Vec<u32>,
}

/// The pool's state of one block.
#[derive(Clone, Debug, Default)]
struct Block {
    references: u32,
    /// Set while the block can be found.
    content: Option<BlockContent>,
    /// Time of last use; orders eviction.
    used: u64,
}

/// A block that shares a prefix with the ids looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockMatch {
    pub(crate) block: u32,
    /// Length of the shared prefix; at least one.
    pub(crate) common: usize,
    /// Whether the block is not held and has no content after the shared prefix, so that a new holder may append to it.
    pub(crate) open: bool,
}

/// Every block of the KV cache.
#[derive(Debug)]
pub(crate) struct BlockPool {
    blocks: Vec<Block>,
    /// Blocks without holder and without content; the last one is allocated next.
    free: Vec<u32>,
    /// Blocks below this were held at least once: their memory is in use.
    touched: usize,
    /// Blocks without holder whose content is known, by time of last use.
    cached: BTreeSet<(u64, u32)>,
    index: BTreeMap<BlockContent, u32>,
    clock: u64,
    evictions: usize,
}

impl BlockPool {
    /// A pool of `count` free blocks.
    pub(crate) fn new(count: usize) -> Self {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        Self {
            blocks: vec![Block::default(); count as usize],
            free: (0..count).rev().collect(),
            touched: 0,
            cached: BTreeSet::new(),
            index: BTreeMap::new(),
            clock: 0,
            evictions: 0,
        }
    }

    /// All blocks.
    pub(crate) fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Share of the blocks that were held at least once, or lie below one: the memory that is in use.
    pub(crate) fn touched(&self) -> f64 {
        self.touched as f64 / self.len().max(1) as f64
    }

    /// Share of the blocks that are held.
    pub(crate) fn usage(&self) -> f64 {
        1.0 - self.available() as f64 / self.len().max(1) as f64
    }

    /// Blocks without holder, which can be allocated.
    pub(crate) fn available(&self) -> usize {
        self.free.len() + self.cached.len()
    }

    /// Blocks that lost their content to make room, since the start.
    pub(crate) fn evictions(&self) -> usize {
        self.evictions
    }

    /// Number of holders of `block`.
    pub(crate) fn references(&self, block: u32) -> u32 {
        self.blocks[block as usize].references
    }

    /// The block after `past` that shares the longest prefix with `ids`.
    pub(crate) fn find(&self, past: BlockKey, ids: &[u32]) -> Option<BlockMatch> {
        let asked = BlockContent { past, ids: ids.to_vec() };
        let neighbours = [self.index.range(&asked..).next(), self.index.range(..&asked).next_back()];
        let of_past = neighbours.into_iter().flatten().filter(|(content, _)| content.past == past);
        let shared = of_past.map(|(content, &block)| (common(&content.ids, ids), content, block));
        let (common, content, block) = shared.max_by_key(|(common, ..)| *common)?;
        let open = self.references(block) == 0 && content.ids.len() == common;
        (common > 0).then_some(BlockMatch { block, common, open })
    }

    /// Allocates a block, held once: a free one, else the least recently used cached one. `None` if all are held.
    pub(crate) fn allocate(&mut self) -> Option<u32> {
        let id = self.free.pop().or_else(|| self.evict())?;
        self.touched = self.touched.max(id as usize + 1);
        self.blocks[id as usize].references = 1;
        Some(id)
    }

    fn evict(&mut self) -> Option<u32> {
        let (_, id) = self.cached.pop_first()?;
        self.forget(id);
        self.evictions += 1;
        Some(id)
    }

    /// Adds a holder to block `id`, which is held or cached.
    pub(crate) fn retain(&mut self, id: u32) {
        let block = &mut self.blocks[id as usize];
        debug_assert!(block.references > 0 || block.content.is_some(), "block {id} is free");
        if block.references == 0 {
            self.cached.remove(&(block.used, id));
        }
        block.references += 1;
    }

    /// Removes a holder.
    pub(crate) fn release(&mut self, id: u32) {
        self.clock += 1;
        let block = &mut self.blocks[id as usize];
        assert!(block.references > 0, "block {id} was released more often than it was held");
        block.references -= 1;
        if block.references > 0 {
            return;
        }
        block.used = self.clock;
        if block.content.is_some() {
            self.cached.insert((block.used, id));
        } else {
            self.free.push(id);
        }
    }

    /// Marks the block as used without holding it, which delays its eviction.
    pub(crate) fn touch(&mut self, id: u32) {
        self.clock += 1;
        let block = &mut self.blocks[id as usize];
        if block.references == 0 && self.cached.remove(&(block.used, id)) {
            self.cached.insert((self.clock, id));
        }
        block.used = self.clock;
    }

    /// Sets the content of the held block to `ids` after `past`. If another block already has that content or a longer
    /// one, this block cannot be found.
    pub(crate) fn register(&mut self, id: u32, past: BlockKey, ids: &[u32]) {
        debug_assert!(self.references(id) > 0, "block {id} is registered by nobody");
        debug_assert!((1..=BLOCK_TOKENS).contains(&ids.len()), "a content of {} ids", ids.len());
        self.forget(id);
        let content = BlockContent { past, ids: ids.to_vec() };
        // Contents that start with it sort directly after it; a content that is its prefix sorts directly before it.
        let longer = self.index.range(&content..).next();
        if longer.is_some_and(|(longer, _)| longer.past == past && longer.ids.starts_with(ids)) {
            return;
        }
        let shorter = self.index.range(..&content).next_back();
        let shorter = shorter.filter(|(shorter, _)| shorter.past == past && ids.starts_with(&shorter.ids));
        if let Some((_, &superseded)) = shorter {
            self.forget(superseded);
            let block = &self.blocks[superseded as usize];
            if block.references == 0 {
                self.cached.remove(&(block.used, superseded));
                self.free.push(superseded);
            }
        }
        self.blocks[id as usize].content = Some(content.clone());
        self.index.insert(content, id);
    }

    /// Removes the block's content, so that it can no longer be found.
    fn forget(&mut self, id: u32) {
        if let Some(content) = self.blocks[id as usize].content.take() {
            self.index.remove(&content);
        }
    }

    /// Number of positions that others can find; they must not be overwritten.
    pub(crate) fn known(&self, id: u32) -> usize {
        self.blocks[id as usize].content.as_ref().map_or(0, |content| content.ids.len())
    }

    /// Panics unless every invariant of this file holds.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        let free: std::collections::HashSet<u32> = self.free.iter().copied().collect();
        assert_eq!(free.len(), self.free.len(), "a block is free twice");
        for (id, block) in self.blocks.iter().enumerate() {
            let id = id as u32;
            let cached = self.cached.contains(&(block.used, id));
            let places = [block.references > 0, cached, free.contains(&id)];
            assert_eq!(places.iter().filter(|&&x| x).count(), 1, "block {id} is in {places:?}");
            assert!(!cached || block.content.is_some(), "block {id} is cached without a content");
            assert!(!free.contains(&id) || block.content.is_none(), "block {id} is free with a content");
            if let Some(content) = &block.content {
                assert_eq!(self.index.get(content), Some(&id));
            }
        }
        assert_eq!(self.index.len(), self.blocks.iter().filter(|b| b.content.is_some()).count());
        assert_eq!(self.available() + self.blocks.iter().filter(|b| b.references > 0).count(), self.len());
        for ((one, _), (next, _)) in self.index.iter().zip(self.index.iter().skip(1)) {
            assert!(one.past != next.past || !next.ids.starts_with(&one.ids), "{one:?} is known twice");
        }
    }
}

/// How many of the first elements of `a` and `b` are equal.
pub(super) fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ROOT: fn() -> BlockKey = || BlockKey::root(0);

    fn register(pool: &mut BlockPool, id: u32, ids: &[u32]) {
        pool.register(id, ROOT(), ids);
    }

    fn found(pool: &BlockPool, ids: &[u32]) -> Option<(u32, usize)> {
        pool.find(ROOT(), ids).map(|found| (found.block, found.common))
    }

    #[test]
    fn a_key_depends_on_ids_on_their_order_on_what_came_before_and_on_the_weights() {
        let ids: Vec<u32> = (0..BLOCK_TOKENS as u32).collect();
        let reversed: Vec<u32> = ids.iter().rev().copied().collect();
        let root = BlockKey::root(0);
        let keys = [
            root,
            BlockKey::root(1),
            root.child(&ids),
            root.child(&reversed),
            root.child(&ids).child(&ids),
            root.child(&reversed).child(&ids),
            BlockKey::root(1).child(&ids),
        ];
        let distinct: std::collections::HashSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len());
        assert_eq!(root.child(&ids), BlockKey::root(0).child(&ids));
    }

    #[test]
    fn the_least_recently_used_content_goes_first_and_only_when_nothing_is_free() {
        let mut pool = BlockPool::new(4);
        let [a, b, c] = std::array::from_fn(|_| pool.allocate().unwrap());
        for (block, id) in [(a, 1), (b, 2), (c, 3)] {
            register(&mut pool, block, &[id]);
        }
        for block in [b, c, a] {
            pool.release(block);
        }
        pool.touch(b);
        let d = pool.allocate().unwrap();
        assert!((1..4).all(|id| found(&pool, &[id]).is_some()), "a free block comes first");
        assert_eq!(pool.allocate(), Some(c));
        assert_eq!((found(&pool, &[1]), found(&pool, &[2]), found(&pool, &[3])), (Some((a, 1)), Some((b, 1)), None));
        pool.retain(a);
        assert_eq!((pool.allocate(), pool.allocate()), (Some(b), None), "a block that is held again is not evicted");
        assert_eq!((pool.evictions(), pool.references(d)), (2, 1));
        pool.check();
    }

    #[test]
    fn the_block_that_shares_most_is_found_under_its_own_past_only() {
        let mut pool = BlockPool::new(5);
        let contents: [&[u32]; 4] = [&[1, 2, 3, 4], &[1, 2, 9], &[1, 5], &[7]];
        let ids = contents.map(|content| {
            let id = pool.allocate().unwrap();
            register(&mut pool, id, content);
            id
        });
        for (asked, expected) in [
            (&[1, 2, 3, 5][..], Some((ids[0], 3))),
            (&[1, 2, 3, 4, 5], Some((ids[0], 4))),
            (&[1, 2, 9, 9], Some((ids[1], 3))),
            (&[1, 5], Some((ids[2], 2))),
            (&[1, 6], Some((ids[2], 1))),
            (&[8], None),
        ] {
            assert_eq!(found(&pool, asked), expected, "{asked:?}");
        }
        assert_eq!(pool.find(BlockKey::root(1), &[1, 2, 3]), None);
        assert_eq!(pool.find(BlockKey::root(0).child(&[0; BLOCK_TOKENS]), &[1, 2, 3]), None);
        // Open to be written on: nobody holds it, and nothing behind what is asked would be lost.
        let open = |pool: &BlockPool, asked: &[u32]| pool.find(ROOT(), asked).unwrap().open;
        assert!(!open(&pool, &[7, 8]));
        pool.release(ids[3]);
        pool.release(ids[0]);
        assert!(open(&pool, &[7, 8]) && open(&pool, &[1, 2, 3, 4, 5]) && !open(&pool, &[1, 2, 3, 5]));
    }

    #[test]
    fn what_another_block_holds_as_well_is_not_kept_twice() {
        let mut pool = BlockPool::new(3);
        let [a, b, c] = std::array::from_fn(|_| pool.allocate().unwrap());
        register(&mut pool, a, &[1, 2]);
        register(&mut pool, b, &[1, 2]);
        assert_eq!(found(&pool, &[1, 2]), Some((a, 2)));
        pool.release(b);
        pool.release(a);
        assert_eq!(pool.available(), 2);
        register(&mut pool, c, &[1, 2, 3]);
        pool.check();
        assert_eq!((found(&pool, &[1, 2]), pool.free.len(), pool.evictions()), (Some((c, 2)), 2, 0));
    }

    #[test]
    #[should_panic(expected = "released more often")]
    fn a_double_release_does_not_pass_silently() {
        let mut pool = BlockPool::new(1);
        let a = pool.allocate().unwrap();
        pool.release(a);
        pool.release(a);
    }

    proptest! {
        #[test]
        fn random_operations_keep_every_invariant(
            ops in prop::collection::vec((0u8..5, 0u32..6, prop::collection::vec(0u32..3, 1..5)), 1..200),
        ) {
            let mut pool = BlockPool::new(5);
            let mut held: Vec<u32> = Vec::new();
            for (op, n, ids) in ops {
                match (op, held.get(n as usize % held.len().max(1)).copied()) {
                    (0, _) => {
                        let available = pool.available();
                        let got = pool.allocate();
                        prop_assert_eq!(got.is_some(), available > 0);
                        if let Some(id) = got {
                            prop_assert!(!held.contains(&id), "a held block was handed out again");
                            held.push(id);
                        }
                    }
                    (1, Some(id)) => {
                        pool.release(id);
                        held.swap_remove(held.iter().position(|&h| h == id).unwrap());
                    }
                    (2, Some(id)) => register(&mut pool, id, &ids),
                    (3, _) => {
                        // The longest common beginning there is, by looking at every block.
                        let of = |block: &Block| block.content.as_ref().map_or(0, |c| common(&c.ids, &ids));
                        let longest = pool.blocks.iter().map(of).max().unwrap();
                        let found = found(&pool, &ids);
                        prop_assert_eq!(found.map_or(0, |(_, common)| common), longest);
                        if let Some((id, common)) = found {
                            prop_assert_eq!(of(&pool.blocks[id as usize]), common);
                            pool.retain(id);
                            held.push(id);
                        }
                    }
                    (4, _) => pool.touch(n.min(4)),
                    _ => {}
                }
                pool.check();
                for &id in &held {
                    prop_assert_eq!(pool.references(id) as usize, held.iter().filter(|&&h| h == id).count());
                }
            }
            for id in held {
                pool.release(id);
            }
            pool.check();
            prop_assert_eq!(pool.available(), pool.len());
        }
    }
}
