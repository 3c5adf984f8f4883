//! The part of a sequence that is in the cache before it runs.

use super::blocks::{BlockMatch, BlockPool, common};
use super::sequence::Sequence;
use crate::transformer::decode::BLOCK_TOKENS;

/// A waiting sequence keeps waiting if a running one is about to compute at least this many of its first tokens. Every
/// conversation shares the few tokens that the chat template begins with: those are not worth a step's wait.
const AWAITED_TOKENS_MIN: usize = 4;

/// The part of a waiting sequence that is cached.
#[derive(Default)]
pub(crate) struct Prefix {
    /// Full blocks to share, the first ones of its table.
    pub(crate) blocks: Vec<u32>,
    /// The next block, whose first positions match: it is extended or copied.
    pub(crate) tail: Option<BlockMatch>,
    /// Whether a running sequence is about to compute more of it.
    pub(crate) awaited: bool,
}

impl Prefix {
    /// The prefix of `sequence`, which waits, in `pool` while `running` run.
    pub(crate) fn of(sequence: &Sequence, pool: &BlockPool, running: &[Sequence]) -> Self {
        let end = sequence.sharable();
        let mut prefix = Self::default();
        while let Some(past) = sequence.past(prefix.blocks.len()).filter(|_| prefix.tokens() < end) {
            match pool.find(past, sequence.ids(prefix.blocks.len(), end)) {
                Some(BlockMatch { block, common: BLOCK_TOKENS, .. }) => prefix.blocks.push(block),
                tail => {
                    prefix.tail = tail;
                    break;
                }
            }
        }
        prefix.awaited = prefix.is_awaited(sequence, running, end);
        prefix
    }

    /// Whether one of `running` is about to compute more of `sequence` than the cache holds, and enough of it.
    fn is_awaited(&self, sequence: &Sequence, running: &[Sequence], end: usize) -> bool {
        let block = self.blocks.len();
        let Some(past) = sequence.past(block).filter(|_| block * BLOCK_TOKENS < end) else { return false };
        let ids = sequence.ids(block, end);
        let enough = self.tokens() + AWAITED_TOKENS_MIN;
        running.iter().filter(|s| !s.is_decoding() && s.past(block) == Some(past)).any(|s| {
            let shared = block * BLOCK_TOKENS + common(ids, s.ids(block, s.tokens.len()));
            shared >= enough && shared > s.cached
        })
    }

    /// Its length in tokens.
    pub(crate) fn tokens(&self) -> usize {
        self.blocks.len() * BLOCK_TOKENS + self.tail.map_or(0, |tail| tail.common)
    }
}
