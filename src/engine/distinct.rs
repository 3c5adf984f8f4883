//! The least number of tokens that a set of texts needs computed, each distinct token counted once.
//!
//! A token is distinct by the weights and all tokens before it, so the distinct ones are the nodes of a trie over (weights,
//! prefix). The engine does not use this; its work is compared with it. The last token of a text costs nothing: it was
//! sampled, and nothing was computed from it.

use crate::types::CriticVersion;
use std::collections::HashMap;

/// Counts distinct tokens. One version must mean one installation of weights.
#[derive(Clone, Debug, Default)]
pub struct DistinctTokens {
    /// The node that an id leads to from a node, numbered from 1; each version has a root of its own.
    nodes: HashMap<(Node, u32), u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Node {
    Root(CriticVersion),
    Token(u64),
}

impl DistinctTokens {
    /// Adds a text that `version` wrote behind `prompt`.
    pub fn add(&mut self, version: CriticVersion, prompt: &[u32], written: &[u32]) {
        let computed = written.split_last().map_or(&[][..], |(_, computed)| computed);
        let mut node = Node::Root(version);
        for &id in prompt.iter().chain(computed) {
            let next = self.nodes.len() as u64 + 1;
            node = Node::Token(*self.nodes.entry((node, id)).or_insert(next));
        }
    }

    /// Distinct tokens so far.
    pub fn tokens(&self) -> u64 {
        self.nodes.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_counts_once_for_each_version_and_the_last_token_not_at_all() {
        let (base, critic) = (CriticVersion::BASE, CriticVersion(1));
        let mut distinct = DistinctTokens::default();
        let mut adds = |version, prompt: &[u32], written: &[u32]| {
            let before = distinct.tokens();
            distinct.add(version, prompt, written);
            distinct.tokens() - before
        };
        assert_eq!(adds(base, &[1, 2, 3], &[4, 5]), 4);
        assert_eq!(adds(base, &[1, 2, 3], &[4, 5]), 0);
        assert_eq!(adds(base, &[1, 2, 3], &[9]), 0);
        assert_eq!(adds(base, &[1, 2, 3, 4, 5], &[6, 7]), 2);
        assert_eq!(adds(base, &[2, 3], &[]), 2, "the same ids behind others are other tokens");
        assert_eq!(adds(critic, &[1, 2, 3], &[4, 5]), 4);
    }
}
