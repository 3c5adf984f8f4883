//! A bounded buffer of critique groups: push, lease, retire by age and re-use. Pure and seeded.
//!
//! Groups come in by [`Replay::push`], go out to be learned by [`Replay::lease`] and are retired when they are
//! too old for the critic in service, were used often enough, or make room. The learner may fall back to an
//! older checkpoint ([`Replay::rewind`]); therefore what was used or retired since the last one that is whole
//! on disk ([`Replay::committed`]) is kept aside and comes back. This file knows no tensor and no disk: its
//! snapshot is its serde form.
//!
//! Invariants: an accepted group is held, set aside, or was retired for a counted reason; no group is learned
//! more than `uses_max` times, rewound uses left out; one lease is out at most; a lease's name is never reused.

pub use crate::types::Pushed;
use crate::types::{CriticVersion, CritiqueGroup, EpisodeId, Objective};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use seen::Seen;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

mod seen;
#[cfg(test)]
mod tests;

/// Limits of the buffer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplayConfig {
    /// Groups held at most.
    pub groups_max: usize,
    /// A group older than this many published critics is retired.
    pub age_versions_max: u64,
    /// A group is learned from at most so many times.
    pub uses_max: u32,
}

impl ReplayConfig {
    /// What is wrong with these values, all at once.
    pub fn complaints(&self) -> Vec<String> {
        [("groups_max", self.groups_max as u64), ("uses_max", u64::from(self.uses_max))]
            .into_iter()
            .filter(|(_, value)| *value == 0)
            .map(|(key, value)| format!("replay.{key}: expected at least 1, got {value}"))
            .collect()
    }
}

/// Groups handed out to be learned in one step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lease {
    /// Its name: 1, 2, 3, ... in the order of leasing.
    pub batch: u64,
    /// The groups.
    pub groups: Vec<Arc<CritiqueGroup>>,
}

/// Groups that left the buffer. One that comes back by a rewind and leaves again is counted again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retired {
    /// Older than the limit.
    pub aged: u64,
    /// Used as often as allowed.
    pub used: u64,
    /// Pushed out by newer ones.
    pub displaced: u64,
}

/// A group with its history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Entry {
    group: Arc<CritiqueGroup>,
    /// Its place in the order of pushing.
    arrival: u64,
    /// The learner steps that used it.
    used_in_steps: Vec<u64>,
    leased: bool,
}

/// A group that left the buffer and comes back if the learner goes back behind `step`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Aside {
    entry: Entry,
    /// The newest learner step when it left.
    step: u64,
}

/// The lease that is out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Out {
    batch: u64,
    episodes: Vec<EpisodeId>,
}

/// The buffer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replay {
    config: ReplayConfig,
    #[serde(default)]
    objective: Objective,
    fresh_max: usize,
    seed: u64,
    /// The critic in service.
    newest: CriticVersion,
    /// The newest learner step that used anything.
    step: u64,
    /// The last batch handed out.
    batch: u64,
    out: Option<Out>,
    /// Groups accepted so far.
    arrivals: u64,
    /// In the order of pushing.
    held: Vec<Entry>,
    /// In the order of leaving.
    aside: Vec<Aside>,
    seen: Seen,
    /// Retirements not reported yet.
    retired: Retired,
}

impl Replay {
    /// An empty buffer of groups to learn by `objective`. `fresh_max` is how many unlearned groups may wait at once
    /// (pacing).
    pub fn new(config: ReplayConfig, objective: Objective, fresh_max: usize, seed: u64) -> Self {
        Self {
            config,
            objective,
            fresh_max,
            seed,
            newest: CriticVersion::BASE,
            step: 0,
            batch: 0,
            out: None,
            arrivals: 0,
            held: Vec::new(),
            aside: Vec::new(),
            seen: Seen::default(),
            retired: Retired::default(),
        }
    }

    /// A snapshot, taken up by a new run: under that run's limits and objective, and with the lease that was out released,
    /// for whoever had it is gone. Groups without anything to learn by a changed objective are let go.
    pub fn resumed(mut self, config: ReplayConfig, objective: Objective, fresh_max: usize, seed: u64) -> Self {
        (self.config, self.objective, self.fresh_max, self.seed) = (config, objective, fresh_max, seed);
        self.held.retain(|entry| !entry.group.is_zero_variance(objective));
        self.aside.retain(|aside| !aside.entry.group.is_zero_variance(objective));
        self.release_outstanding();
        self.settle();
        self
    }

    /// Whether one more episode should begin while `in_flight` are under way: whether its group could
    /// still be learned in time.
    pub fn admits(&self, in_flight: usize) -> bool {
        self.fresh() + in_flight < self.fresh_max
    }

    /// Takes a scored group.
    pub fn push(&mut self, group: CritiqueGroup) -> Pushed {
        if !self.seen.insert(group.episode) {
            return Pushed::Duplicate;
        }
        if group.is_zero_variance(self.objective) {
            return Pushed::ZeroVariance;
        }
        self.arrivals += 1;
        let entry = Entry { group: Arc::new(group), arrival: self.arrivals, used_in_steps: Vec::new(), leased: false };
        self.held.push(entry);
        self.settle();
        Pushed::Kept
    }

    /// Whether a group of `episode` was ever taken. Exact for the last 65,536 or so; of older episodes
    /// it says yes.
    pub fn has_seen(&self, episode: EpisodeId) -> bool {
        self.seen.contains(episode)
    }

    /// `groups` groups to learn from, least used first, drawn by seed among equals; none while there are
    /// fewer. A lease that is still out is handed out again instead of a new one.
    pub fn lease(&mut self, groups: usize) -> Option<Lease> {
        if self.out.is_none() {
            let episodes = self.draw(groups)?;
            self.batch += 1;
            self.held.iter_mut().for_each(|entry| entry.leased = episodes.contains(&entry.group.episode));
            self.out = Some(Out { batch: self.batch, episodes });
        }
        let out = self.out.as_ref()?;
        let group = |episode| self.held.iter().find(|entry| entry.group.episode == episode);
        let groups = out.episodes.iter().filter_map(|episode| Some(Arc::clone(&group(*episode)?.group))).collect();
        Some(Lease { batch: out.batch, groups })
    }

    /// The episodes of the next batch. The draw hangs on seed, batch and episode alone: it does not matter
    /// which other groups are there.
    fn draw(&self, groups: usize) -> Option<Vec<EpisodeId>> {
        if groups == 0 || self.held.len() < groups {
            return None;
        }
        let mut key = [0; 32];
        key[..8].copy_from_slice(&self.seed.to_le_bytes());
        key[8..16].copy_from_slice(&(self.batch + 1).to_le_bytes());
        key[16..22].copy_from_slice(b"replay");
        let lot = |episode: EpisodeId| {
            let mut rng = ChaCha8Rng::from_seed(key);
            rng.set_stream(episode.0);
            rng.next_u64()
        };
        let ranked = |entry: &Entry| (entry.used_in_steps.len(), lot(entry.group.episode), entry.group.episode);
        let mut ranks: Vec<_> = self.held.iter().map(ranked).collect();
        ranks.sort_unstable();
        Some(ranks.into_iter().take(groups).map(|(_, _, episode)| episode).collect())
    }

    /// The lease was learned in `step`: its groups are used once more, and retired at the limit. Returns what
    /// was retired since the last report. A batch that is not out (any more) changes and reports nothing.
    pub fn learned(&mut self, batch: u64, step: u64) -> Retired {
        if self.out.take_if(|out| out.batch == batch).is_none() {
            return Retired::default();
        }
        self.step = step;
        for entry in self.held.iter_mut().filter(|entry| entry.leased) {
            entry.leased = false;
            entry.used_in_steps.push(step);
        }
        self.settle();
        self.take_retired()
    }

    /// The lease was not learned: its groups go back.
    pub fn release(&mut self, batch: u64) {
        if self.out.as_ref().is_some_and(|out| out.batch == batch) {
            self.release_outstanding();
        }
    }

    /// Whatever lease is out was not learned: its groups go back.
    pub fn release_outstanding(&mut self) {
        self.out = None;
        self.held.iter_mut().for_each(|entry| entry.leased = false);
        self.settle();
    }

    /// `newest` is in service: groups too old for it are retired. Returns what was retired since the last
    /// report.
    pub fn advance(&mut self, newest: CriticVersion) -> Retired {
        self.newest = newest;
        self.settle();
        self.take_retired()
    }

    /// The learner went back to the state after `step`, with `newest` in service: later uses never happened,
    /// the lease that is out will not be learned, and groups that were retired since come back, but for those
    /// that had to make room.
    pub fn rewind(&mut self, step: u64, newest: CriticVersion) {
        (self.step, self.newest) = (step, newest);
        let entries = self.held.iter_mut().chain(self.aside.iter_mut().map(|aside| &mut aside.entry));
        entries.for_each(|entry| entry.used_in_steps.retain(|used| *used <= step));
        for aside in std::mem::take(&mut self.aside) {
            if self.is_used_up(&aside.entry) || self.is_too_old(&aside.entry) {
                self.aside.push(aside);
            } else {
                self.held.push(aside.entry);
            }
        }
        self.held.sort_by_key(|entry| entry.arrival);
        self.release_outstanding();
    }

    /// A whole checkpoint of `step` is on disk: nothing before it will be rewound.
    pub fn committed(&mut self, step: u64) {
        self.aside.retain(|aside| aside.step > step);
    }

    /// Takes the report of what was retired since the last one.
    pub fn take_retired(&mut self) -> Retired {
        std::mem::take(&mut self.retired)
    }

    /// Groups held, the leased ones included.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether no group is held.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Groups that were never learned from and are not leased.
    pub fn fresh(&self) -> usize {
        self.held.iter().filter(|entry| entry.used_in_steps.is_empty() && !entry.leased).count()
    }

    /// Groups kept aside until the next whole checkpoint.
    pub fn aside(&self) -> usize {
        self.aside.len()
    }

    /// How many held groups were used 0, 1, 2, ... times, up to one time less than the limit.
    pub fn uses(&self) -> Vec<usize> {
        let mut counts = vec![0; self.config.uses_max as usize];
        for entry in &self.held {
            if let Some(count) = counts.get_mut(entry.used_in_steps.len()) {
                *count += 1;
            }
        }
        counts
    }

    /// How many publications the oldest held group lies behind the critic in service.
    pub fn oldest_age_versions(&self) -> u64 {
        self.held.iter().map(|entry| self.age(entry)).max().unwrap_or_default()
    }

    fn age(&self, entry: &Entry) -> u64 {
        entry.group.oldest_version().age(self.newest)
    }

    fn is_too_old(&self, entry: &Entry) -> bool {
        self.age(entry) > self.config.age_versions_max
    }

    fn is_used_up(&self, entry: &Entry) -> bool {
        entry.used_in_steps.len() >= self.config.uses_max as usize
    }

    /// Retires, and counts, what the limits no longer allow. What is leased stays until it comes back.
    fn settle(&mut self) {
        for entry in std::mem::take(&mut self.held) {
            let (used_up, too_old) = (self.is_used_up(&entry), self.is_too_old(&entry));
            if entry.leased || !(used_up || too_old) {
                self.held.push(entry);
                continue;
            }
            let count = if used_up { &mut self.retired.used } else { &mut self.retired.aged };
            *count += 1;
            self.aside.push(Aside { entry, step: self.step });
        }
        while self.held.len() > self.config.groups_max {
            let Some(at) = self.next_to_make_room() else { break };
            self.held.remove(at);
            self.retired.displaced += 1;
        }
        // Without checkpoints nothing would ever leave: what has waited longest for one is let go.
        let surplus = self.aside.len().saturating_sub(self.config.groups_max);
        self.aside.drain(..surplus);
    }

    /// The oldest that was used, else the oldest; never a leased one.
    fn next_to_make_room(&self) -> Option<usize> {
        let used = |entry: &Entry| !entry.leased && !entry.used_in_steps.is_empty();
        self.held.iter().position(used).or_else(|| self.held.iter().position(|entry| !entry.leased))
    }
}
