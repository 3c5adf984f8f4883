//! Seeds: a pure function of a request's place in the run.

use crate::telemetry::metrics::Role;
use crate::types::EpisodeId;
use crate::types::splitmix::{GOLDEN_GAMMA, mix64};

/// The seed of one request: a pure function of its place in the run.
pub(crate) fn seed(node: u64, episode: EpisodeId, role: Role, index: u64) -> u64 {
    mix(mix(mix(node, episode.0), role as u64), index)
}

/// One seed from a seed and a word.
pub(crate) fn mix(seed: u64, word: u64) -> u64 {
    mix64(seed.rotate_left(23).wrapping_add(word.wrapping_add(1).wrapping_mul(GOLDEN_GAMMA)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_request_of_a_run_has_a_seed_of_its_own_and_always_the_same() {
        let mut seeds = BTreeSet::new();
        for node in 0..3 {
            for episode in (0..50).map(EpisodeId) {
                for role in [Role::Generator, Role::Critic, Role::Refiner, Role::Judge] {
                    for index in 0..8 {
                        assert!(seeds.insert(seed(node, episode, role, index)), "{node} {episode} {role:?} {index}");
                    }
                }
            }
        }
        assert_eq!(seed(1, EpisodeId(2), Role::Refiner, 3), seed(1, EpisodeId(2), Role::Refiner, 3));
    }
}
