//! Which episodes of a run have started and not finished.
//!
//! Invariant: a started episode stays in the ledger until it ends, over any number of restarts.

use crate::types::EpisodeId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Which episodes have started and not finished: those that a resumed run must run again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    /// The first episode that has never started.
    pub next: u64,
    /// Started and not finished.
    pub open: BTreeSet<EpisodeId>,
    /// Those of `open` that are not running; they run before any new one.
    #[serde(default)]
    pub waiting: BTreeSet<EpisodeId>,
}

impl Ledger {
    /// Starts the next episode: the first one waiting to run again, else a new one.
    pub fn begin(&mut self) -> EpisodeId {
        if let Some(episode) = self.waiting.pop_first() {
            return episode;
        }
        let episode = EpisodeId(self.next);
        self.next += 1;
        self.open.insert(episode);
        episode
    }

    /// Whether the next episode that begins is a new one.
    pub fn is_next_new(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Passes over the first episode that has never started: it never runs.
    pub fn pass_over(&mut self) {
        self.next += 1;
    }

    /// Starts `episode` again as [`Ledger::begin`] did: one that was waiting, or the next.
    pub fn start(&mut self, episode: EpisodeId) {
        self.waiting.remove(&episode);
        self.next = self.next.max(episode.0 + 1);
        self.open.insert(episode);
    }

    /// Marks `episode` as finished, successfully or not; it does not run again. False if it was not open.
    pub fn end(&mut self, episode: EpisodeId) -> bool {
        self.waiting.remove(&episode);
        self.open.remove(&episode)
    }

    /// Marks all open episodes to run again, in order, after whatever ran them has ended.
    pub fn reopen(&mut self) {
        self.waiting.clone_from(&self.open);
    }

    /// How many open episodes are running.
    pub fn under_way(&self) -> usize {
        self.open.len() - self.waiting.len()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Steps: 0 begins, 1 ends one of those under way, 2 restarts from what was saved.
        #[test]
        fn the_ledger_never_forgets_an_episode(steps in proptest::collection::vec((0u8..3, any::<prop::sample::Index>()), 0..80)) {
            let mut ledger = Ledger::default();
            let (mut running, mut ended) = (Vec::new(), BTreeSet::new());
            for (step, which) in steps {
                match step {
                    0 => {
                        let episode = ledger.begin();
                        prop_assert!(!ended.contains(&episode) && !running.contains(&episode));
                        running.push(episode);
                    }
                    1 if !running.is_empty() => {
                        let episode = running.swap_remove(which.index(running.len()));
                        prop_assert!(ledger.end(episode));
                        prop_assert!(!ledger.end(episode));
                        ended.insert(episode);
                    }
                    2 => {
                        ledger = serde_json::from_str(&serde_json::to_string(&ledger).unwrap()).unwrap();
                        ledger.reopen();
                        running.clear();
                    }
                    _ => {}
                }
                prop_assert_eq!(ledger.under_way(), running.len());
                prop_assert_eq!(ledger.open.len() + ended.len(), ledger.next as usize);
            }
            ledger.reopen();
            let again: Vec<_> = (0..ledger.open.len()).map(|_| ledger.begin()).collect();
            prop_assert!(again.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert!((0..ledger.next).map(EpisodeId).all(|e| ended.contains(&e) != again.contains(&e)));
        }
    }
}
