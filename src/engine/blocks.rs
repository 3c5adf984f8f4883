//! The pool of KV blocks: who holds which, and what the full ones contain.
//!
//! Knows block numbers and content keys; no tensor, no sequence.
//!
//! Invariants: a block is either held (references > 0), cached (none, but its key is known) or free;
//! a key names at most one block; a cached block is evicted only when no block is free, the least
//! recently released first.

use crate::model::decode::BLOCK_TOKENS;
use sha2::{Digest, Sha256};
use std::collections::{BTreeSet, HashMap};

/// Names the content of a full block: its ids, all ids before them, and the weights that computed them.
///
/// 128 bits of SHA-256 over a chain: two contents with one key are out of the question, so that a hit
/// needs no comparison of ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct BlockKey(u128);

impl BlockKey {
    /// Where the chains of one set of weights begin. Each installation has a number of its own.
    pub(crate) fn root(installation: u64) -> Self {
        Self::digest(Sha256::new().chain_update(b"root").chain_update(installation.to_le_bytes()))
    }

    /// The key of the full block `ids` that follows the block `self`.
    pub(crate) fn child(self, ids: &[u32]) -> Self {
        debug_assert_eq!(ids.len(), BLOCK_TOKENS, "only full blocks have keys");
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

/// What the pool knows of one block.
#[derive(Clone, Debug, Default)]
struct Block {
    references: u32,
    /// Set while its content may be found.
    key: Option<BlockKey>,
    /// When it was released last; orders eviction.
    released: u64,
}

/// Every block of the KV cache.
#[derive(Debug)]
pub(crate) struct BlockPool {
    blocks: Vec<Block>,
    /// Blocks without holder and without content, the next one last.
    free: Vec<u32>,
    /// Blocks without holder whose content is known, by time of release.
    cached: BTreeSet<(u64, u32)>,
    index: HashMap<BlockKey, u32>,
    clock: u64,
    evictions: u64,
}

impl BlockPool {
    /// A pool of `count` free blocks.
    pub(crate) fn new(count: usize) -> Self {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        Self {
            blocks: vec![Block::default(); count as usize],
            free: (0..count).rev().collect(),
            cached: BTreeSet::new(),
            index: HashMap::new(),
            clock: 0,
            evictions: 0,
        }
    }

    /// All blocks.
    pub(crate) fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Blocks that nobody holds: what can be allocated.
    pub(crate) fn available(&self) -> usize {
        self.free.len() + self.cached.len()
    }

    /// Blocks that lost their content to make room, since the start.
    pub(crate) fn evictions(&self) -> u64 {
        self.evictions
    }

    /// Holders of `block`.
    pub(crate) fn references(&self, block: u32) -> u32 {
        self.blocks[block as usize].references
    }

    /// The block whose content is `key`.
    pub(crate) fn find(&self, key: BlockKey) -> Option<u32> {
        self.index.get(&key).copied()
    }

    /// A block with no content worth keeping, held once; none if all are held.
    pub(crate) fn allocate(&mut self) -> Option<u32> {
        let id = self.free.pop().or_else(|| self.evict())?;
        self.blocks[id as usize].references = 1;
        Some(id)
    }

    fn evict(&mut self) -> Option<u32> {
        let (_, id) = self.cached.pop_first()?;
        self.forget(id);
        self.evictions += 1;
        Some(id)
    }

    /// One more holder of `block`, which is held or cached.
    pub(crate) fn retain(&mut self, id: u32) {
        let block = &mut self.blocks[id as usize];
        debug_assert!(block.references > 0 || block.key.is_some(), "block {id} is free");
        if block.references == 0 {
            self.cached.remove(&(block.released, id));
        }
        block.references += 1;
    }

    /// One holder less.
    pub(crate) fn release(&mut self, id: u32) {
        self.clock += 1;
        let block = &mut self.blocks[id as usize];
        assert!(block.references > 0, "block {id} was released more often than it was held");
        block.references -= 1;
        if block.references > 0 {
            return;
        }
        block.released = self.clock;
        if block.key.is_some() {
            self.cached.insert((block.released, id));
        } else {
            self.free.push(id);
        }
    }

    /// Says that the held block now contains `key`; ignored where another block already does.
    pub(crate) fn register(&mut self, id: u32, key: BlockKey) {
        let block = &mut self.blocks[id as usize];
        debug_assert!(block.references > 0, "block {id} is registered by nobody");
        if block.key.is_none() && !self.index.contains_key(&key) {
            block.key = Some(key);
            self.index.insert(key, id);
        }
    }

    /// Says that the block's content is about to change.
    pub(crate) fn forget(&mut self, id: u32) {
        if let Some(key) = self.blocks[id as usize].key.take() {
            self.index.remove(&key);
        }
    }

    /// Panics unless every invariant of this file holds.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        let free: std::collections::HashSet<u32> = self.free.iter().copied().collect();
        assert_eq!(free.len(), self.free.len(), "a block is free twice");
        for (id, block) in self.blocks.iter().enumerate() {
            let id = id as u32;
            let cached = self.cached.contains(&(block.released, id));
            let places = [block.references > 0, cached, free.contains(&id)];
            assert_eq!(places.iter().filter(|&&x| x).count(), 1, "block {id} is in {places:?}");
            assert!(!cached || block.key.is_some(), "block {id} is cached without a key");
            assert!(!free.contains(&id) || block.key.is_none(), "block {id} is free with a key");
            if let Some(key) = block.key {
                assert_eq!(self.index.get(&key), Some(&id));
            }
        }
        assert_eq!(self.index.len(), self.blocks.iter().filter(|b| b.key.is_some()).count());
        assert_eq!(self.available() + self.blocks.iter().filter(|b| b.references > 0).count(), self.len());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(n: u32) -> BlockKey {
        BlockKey::root(0).child(&[n; BLOCK_TOKENS])
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
    fn the_least_recently_released_content_goes_first_and_only_when_nothing_is_free() {
        let mut pool = BlockPool::new(3);
        let [a, b] = [pool.allocate().unwrap(), pool.allocate().unwrap()];
        pool.register(a, key(1));
        pool.register(b, key(2));
        pool.release(b);
        pool.release(a);
        let c = pool.allocate().unwrap();
        assert!(pool.find(key(1)).is_some() && pool.find(key(2)).is_some(), "a free block comes first");
        assert_eq!(pool.allocate(), Some(b));
        assert_eq!((pool.find(key(1)), pool.find(key(2))), (Some(a), None));
        pool.retain(a);
        assert_eq!(pool.allocate(), None, "a block that is held again is not evicted");
        assert_eq!((pool.evictions(), pool.references(c)), (1, 1));
        pool.check();
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
        fn random_operations_keep_every_invariant(ops in prop::collection::vec((0u8..5, 0u32..6), 1..200)) {
            let mut pool = BlockPool::new(5);
            let mut held: Vec<u32> = Vec::new();
            for (op, n) in ops {
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
                    (2, Some(id)) => pool.register(id, key(n)),
                    (3, _) => {
                        if let Some(id) = pool.find(key(n)) {
                            pool.retain(id);
                            held.push(id);
                        }
                    }
                    (4, Some(id)) => pool.forget(id),
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
