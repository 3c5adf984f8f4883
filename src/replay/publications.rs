//! Ages in publications: how often the learner had published when a critic went into service.
//!
//! Versions are numbered in the order in which they were made, by the learner or by an operator. What makes a critique old
//! is how often the learner has published since, so swaps do not age the buffer.

use crate::types::CriticVersion;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Versions whose place is remembered. A group holds critiques of versions that served when its episode ran; far more have
/// not served within one episode.
const REMEMBERED_MAX: usize = 4096;

/// The learner's publications, and what number of them each version entered service at.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Publications {
    count: u64,
    /// By version: only those whose place is not their own number.
    entered: BTreeMap<CriticVersion, u64>,
}

impl Publications {
    /// Every version up to `newest` is a publication.
    pub(super) fn until(newest: CriticVersion) -> Self {
        Self { count: newest.0, entered: BTreeMap::new() }
    }

    /// The number of publications.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// The learner published `version`.
    pub(super) fn published(&mut self, version: CriticVersion) {
        self.count += 1;
        self.enters_service(version);
    }

    /// `version` writes critiques from now on.
    pub(super) fn enters_service(&mut self, version: CriticVersion) {
        self.entered.remove(&version);
        if version.0 != self.count {
            self.entered.insert(version, self.count);
        }
        while self.entered.len() > REMEMBERED_MAX {
            self.entered.pop_first();
        }
    }

    /// The number of publications when `version` entered service.
    pub(super) fn of(&self, version: CriticVersion) -> u64 {
        self.entered.get(&version).copied().unwrap_or(version.0).min(self.count)
    }

    /// The learner went back to when there were `count` publications: later ones do not count.
    pub(super) fn rewind(&mut self, count: u64) {
        self.count = count;
        self.entered.values_mut().for_each(|entered| *entered = count.min(*entered));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swaps_do_not_age_and_a_version_that_returns_is_as_young_as_its_return() {
        let mut publications = Publications::default();
        publications.published(CriticVersion(1));
        for swap in 2..1002 {
            publications.enters_service(CriticVersion(swap));
            assert_eq!(publications.of(CriticVersion(swap)), 1);
        }
        publications.published(CriticVersion(1002));
        assert_eq!((publications.count(), publications.of(CriticVersion(1002))), (2, 2));
        assert_eq!(publications.of(CriticVersion(7)), 1);
        publications.enters_service(CriticVersion(1));
        assert_eq!(publications.of(CriticVersion(1)), 2);
        publications.published(CriticVersion(1003));
        publications.rewind(2);
        assert_eq!((publications.count(), publications.of(CriticVersion(1002))), (2, 2));
    }

    #[test]
    fn without_swaps_a_version_is_its_own_place() {
        let mut publications = Publications::default();
        (1..10).for_each(|version| publications.published(CriticVersion(version)));
        assert!(publications.entered.is_empty());
        assert_eq!((publications.of(CriticVersion(4)), publications.count()), (4, 9));
    }
}
