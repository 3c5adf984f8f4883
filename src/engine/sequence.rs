//! One continuation under way, as the scheduler sees it: ids, and where their keys and values lie.
//!
//! Knows no tensor, no text and no sampling.
//!
//! Invariants: `table` covers the first `cached` tokens; a sequence that waits holds no block.

use super::RequestId;
use super::blocks::BlockKey;
use crate::model::decode::BLOCK_TOKENS;

/// Names a sequence: the `index`-th continuation of a request. Orders sequences by age, the oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Name {
    /// Its request.
    pub(crate) request: RequestId,
    /// Which of the request's continuations it is, from 0.
    pub(crate) index: usize,
}

/// One continuation under way.
#[derive(Clone, Debug)]
pub(crate) struct Sequence {
    pub(crate) name: Name,
    /// The prompt and what was sampled.
    pub(crate) tokens: Vec<u32>,
    /// Length of the prompt.
    pub(crate) prompt: usize,
    /// Siblings that will fork from it when its prompt is computed.
    pub(crate) held: usize,
    /// Tokens whose keys and values are in the cache.
    pub(crate) cached: usize,
    /// The blocks that hold them.
    pub(crate) table: Vec<u32>,
    /// Tokens to compute in the step under way; 0 outside of it.
    pub(crate) planned: usize,
    /// Full blocks of the table whose contents the pool has been told.
    pub(crate) registered: usize,
    /// Keys of what follows the first full blocks of `tokens`: those of the prompt, and more as they are computed.
    keys: Vec<BlockKey>,
    root: BlockKey,
}

impl Sequence {
    /// A sequence that waits with its prompt, under the weights whose chains begin at `root`.
    pub(crate) fn new(name: Name, prompt: Vec<u32>, held: usize, root: BlockKey) -> Self {
        let mut sequence = Self {
            name,
            prompt: prompt.len(),
            tokens: prompt,
            held,
            cached: 0,
            table: Vec::new(),
            planned: 0,
            registered: 0,
            keys: Vec::new(),
            root,
        };
        sequence.extend_keys(sequence.tokens.len());
        sequence
    }

    /// The `index`-th continuation of the same prompt over the same blocks, with its first token.
    pub(crate) fn sibling(&self, index: usize, token: u32) -> Self {
        let mut sibling = Self { name: Name { index, ..self.name }, held: 0, planned: 0, ..self.clone() };
        sibling.tokens.push(token);
        sibling
    }

    /// Tokens that are known but not in the cache.
    pub(crate) fn pending(&self) -> usize {
        self.tokens.len() - self.cached
    }

    /// Whether only its newest sampled token is missing from the cache.
    pub(crate) fn is_decoding(&self) -> bool {
        self.tokens.len() > self.prompt && self.pending() == 1
    }

    /// Whether the planned step computes its last token, so that a new one is sampled.
    pub(crate) fn samples(&self) -> bool {
        self.planned > 0 && self.planned == self.pending()
    }

    /// Tokens sampled so far.
    pub(crate) fn sampled(&self) -> usize {
        self.tokens.len() - self.prompt
    }

    /// The key of all that comes before its block `block`, as far as it is known.
    pub(crate) fn past(&self, block: usize) -> Option<BlockKey> {
        block.checked_sub(1).map_or(Some(self.root), |before| self.keys.get(before).copied())
    }

    /// The ids of its block `block`, no further than `end`.
    pub(crate) fn ids(&self, block: usize, end: usize) -> &[u32] {
        &self.tokens[block * BLOCK_TOKENS..end.min((block + 1) * BLOCK_TOKENS)]
    }

    /// Computes the keys of the full blocks among the first `tokens` tokens.
    pub(crate) fn extend_keys(&mut self, tokens: usize) {
        for block in self.keys.len()..tokens / BLOCK_TOKENS {
            let parent = self.keys.last().copied().unwrap_or(self.root);
            self.keys.push(parent.child(&self.tokens[block * BLOCK_TOKENS..(block + 1) * BLOCK_TOKENS]));
        }
    }
}
