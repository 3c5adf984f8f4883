//! The set of episodes seen, in bounded memory.
//!
//! Episodes arrive roughly in order and some never arrive. All episodes below a low-water mark count as seen, and a set
//! holds those above it. If the set exceeds its limit, the mark moves up to its lowest member, so a missing episode
//! that far back counts as seen.

use crate::types::EpisodeId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Most members of the set.
pub(super) const SCATTERED_MAX: usize = 1 << 16;

/// A set of episodes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Seen {
    /// Every episode below this one was seen.
    below: u64,
    /// Those seen from there on.
    scattered: BTreeSet<u64>,
}

impl Seen {
    /// Whether `episode` was seen.
    pub(super) fn contains(&self, episode: EpisodeId) -> bool {
        episode.0 < self.below || self.scattered.contains(&episode.0)
    }

    /// Adds `episode`; false if it was seen before.
    pub(super) fn insert(&mut self, episode: EpisodeId) -> bool {
        if self.contains(episode) {
            return false;
        }
        self.scattered.insert(episode.0);
        if self.scattered.len() > SCATTERED_MAX {
            self.below = self.scattered.first().copied().unwrap_or(self.below);
        }
        while self.scattered.remove(&self.below) {
            self.below += 1;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn episodes_in_order_take_no_memory() {
        let mut seen = Seen::default();
        assert!((0..10_000).all(|episode| seen.insert(EpisodeId(episode ^ 1))));
        assert!(seen.scattered.is_empty() && seen.below == 10_000);
    }

    #[test]
    fn episodes_that_never_come_do_not_let_memory_grow_without_end() {
        let mut seen = Seen::default();
        let last = 3 * SCATTERED_MAX as u64;
        assert!((1..last).step_by(2).all(|episode| seen.insert(EpisodeId(episode))));
        assert_eq!(seen.scattered.len(), SCATTERED_MAX);
        assert!(seen.contains(EpisodeId(1)) && seen.contains(EpisodeId(last - 1)));
        assert!(!seen.contains(EpisodeId(last - 2)));
    }

    proptest! {
        #[test]
        fn what_was_seen_is_known_and_nothing_else(episodes in proptest::collection::vec(0u64..60, 0..80)) {
            let (mut seen, mut expected) = (Seen::default(), BTreeSet::new());
            for episode in episodes {
                prop_assert_eq!(seen.insert(EpisodeId(episode)), expected.insert(episode));
            }
            prop_assert!((0..70).all(|episode| seen.contains(EpisodeId(episode)) == expected.contains(&episode)));
        }
    }
}
