//! A sequence: continuations of one request that are identical so far, with their token ids and KV blocks. Siblings stay
//! one sequence until they sample different tokens.
//!
//! Knows no tensor, no text and no sampling.
//!
//! Invariants: `table` covers the first `cached` tokens; a sequence that waits holds no block; `siblings` are in
//! order, behind the continuation that names it.

use super::blocks::BlockKey;
use super::request::RequestId;
use crate::transformer::decode::BLOCK_TOKENS;
use crate::types::Origin;

/// Names a sequence by its request and the first of its continuations. The order is by age, the oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Name {
    /// Its request.
    pub(crate) request: RequestId,
    /// Which of the request's continuations it is, from 0.
    pub(crate) index: usize,
}

/// Continuations of a sequence that sampled the same token; none if the token was not written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Branch {
    /// Their indices, ascending.
    pub(crate) continuations: Vec<usize>,
    pub(crate) token: Option<u32>,
}

/// Continuations of one request that are identical so far.
#[derive(Clone, Debug)]
pub(crate) struct Sequence {
    pub(crate) name: Name,
    /// The prompt and what was sampled.
    pub(crate) tokens: Vec<u32>,
    /// Length of the prompt.
    pub(crate) prompt: usize,
    /// Siblings that sampled the same so far.
    pub(crate) siblings: Vec<usize>,
    /// Tokens whose keys and values are in the cache.
    pub(crate) cached: usize,
    /// The blocks that hold them.
    pub(crate) table: Vec<u32>,
    /// Tokens to compute in the step under way; 0 outside of it.
    pub(crate) planned: usize,
    /// Full blocks of the table that are registered with the pool.
    pub(crate) registered: usize,
    /// Who asks.
    pub(crate) origin: Origin,
    /// Tokens of the prompt that were found in the cache; none before it is admitted.
    pub(crate) found: Option<usize>,
    /// The first position whose row of logits is still to be reported; none if no further row but the last is of use.
    pub(crate) unreported: Option<usize>,
    /// Hash-chain keys behind each full block of `tokens`: of the prompt at first, more as blocks are computed.
    keys: Vec<BlockKey>,
    root: BlockKey,
}

impl Sequence {
    /// `n` continuations of a prompt, nothing computed yet, under the weights whose key chains begin at `root`.
    pub(crate) fn new(name: Name, prompt: Vec<u32>, n: usize, root: BlockKey) -> Self {
        let mut sequence = Self {
            name,
            prompt: prompt.len(),
            tokens: prompt,
            siblings: (name.index + 1..name.index + n).collect(),
            cached: 0,
            table: Vec::new(),
            planned: 0,
            registered: 0,
            origin: Origin::Rollout,
            found: None,
            unreported: None,
            keys: Vec::new(),
            root,
        };
        sequence.extend_keys(sequence.tokens.len());
        sequence
    }

    /// The continuations of `branch` as a sequence over the same blocks; none if it names none.
    pub(crate) fn branch(&self, branch: &Branch) -> Option<Self> {
        let (&index, siblings) = branch.continuations.split_first()?;
        let mut sequence = Self { name: Name { index, ..self.name }, siblings: siblings.to_vec(), ..self.clone() };
        sequence.tokens.extend(branch.token);
        Some(sequence)
    }

    /// The indices of its continuations.
    pub(crate) fn continuations(&self) -> impl Iterator<Item = usize> {
        std::iter::once(self.name.index).chain(self.siblings.iter().copied())
    }

    /// The number of its continuations.
    pub(crate) fn count(&self) -> usize {
        1 + self.siblings.len()
    }

    /// Known tokens that are not cached yet.
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

    /// The number of its last planned tokens whose logits are of use: that of the very last one, from which a token is
    /// sampled, and those that are reported.
    pub(crate) fn logit_rows(&self) -> usize {
        let end = self.cached + self.planned;
        self.unreported.map_or(usize::from(self.samples()), |first| end - first.max(self.cached).min(end))
    }

    /// The tokens of the prompt that these rows predict.
    pub(crate) fn predicted(&self) -> &[u32] {
        let end = self.cached + self.planned + 1;
        self.tokens.get(end - self.logit_rows()..end.min(self.prompt)).unwrap_or_default()
    }

    /// Known tokens that may come from the cache, the first ones. At least one is computed, or there would be no logits.
    pub(crate) fn sharable(&self) -> usize {
        (self.tokens.len() - 1).min(self.unreported.unwrap_or(usize::MAX))
    }

    /// Marks the planned tokens as computed.
    pub(crate) fn advance(&mut self) {
        self.cached += std::mem::take(&mut self.planned);
        let reported = self.unreported.map(|first| first.max(self.cached));
        self.unreported = reported.filter(|&first| first < self.prompt);
    }

    /// Tokens sampled so far.
    pub(crate) fn sampled(&self) -> usize {
        self.tokens.len() - self.prompt
    }

    /// The key of everything before block `block`, if known.
    pub(crate) fn past(&self, block: usize) -> Option<BlockKey> {
        block.checked_sub(1).map_or(Some(self.root), |before| self.keys.get(before).copied())
    }

    /// The ids of block `block`, up to position `end`.
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
