//! A bounded buffer of critique groups: push, lease, retire by age and re-use. Pure and seeded.
//!
//! [`Replay::push`] adds a group, [`Replay::lease`] hands groups to the learner. A group is retired when it is too old
//! for the critic in service, has been used often enough, or has to make room. The learner may return to an older
//! checkpoint ([`Replay::rewind`]), so groups used or retired since the last complete checkpoint
//! ([`Replay::committed`]) are kept and can come back. Knows no tensor and no disk: its snapshot is its serde form.
//!
//! Invariants: an accepted group is held, kept for a rewind, or was retired for a counted reason; no group is learned
//! more than `uses_max` times, not counting rewound uses; at most one lease is out; a lease's name is never reused.

pub use crate::types::Pushed;
use crate::types::{CriticVersion, CritiqueGroup, EpisodeId, Objective};
use publications::Publications;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use seen::Seen;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

mod publications;
mod seen;
#[cfg(test)]
mod tests;

/// Limits of the buffer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplayConfig {
    /// Most groups held.
    pub groups_max: usize,
    /// Groups that are more published versions old than this are retired.
    pub age_versions_max: u64,
    /// Most times a group is learned from.
    pub uses_max: u32,
}

impl ReplayConfig {
    /// All errors in these values.
    pub fn complaints(&self) -> Vec<String> {
        [("groups_max", self.groups_max as u64), ("uses_max", u64::from(self.uses_max))]
            .into_iter()
            .filter(|(_, value)| *value == 0)
            .map(|(key, value)| format!("replay.{key}: expected at least 1, got {value}"))
            .collect()
    }
}

/// Groups leased for one learner step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lease {
    /// Its name: 1, 2, 3, ... in the order of leasing.
    pub batch: u64,
    /// The groups.
    pub groups: Vec<Arc<CritiqueGroup>>,
    /// The age of each, in publications.
    #[serde(default)]
    pub ages: Vec<u64>,
}

/// Numbers of groups retired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retired {
    /// Older than the limit.
    pub aged: u64,
    /// Used as often as allowed.
    pub used: u64,
    /// Replaced by newer ones.
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
    /// The number of publications when its critic went into service; none in a snapshot of an older program, where each
    /// version is a publication.
    #[serde(default)]
    publication: Option<u64>,
}

/// A retired group, which returns if the learner rewinds to before `step`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Aside {
    entry: Entry,
    /// The newest learner step when it was retired.
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
    /// Lease groups in the order of their arrival.
    #[serde(default)]
    in_order: bool,
    /// The newest publication of the learner, as older programs knew it.
    newest: CriticVersion,
    /// The learner's publications.
    #[serde(default)]
    publications: Option<Publications>,
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
    /// An empty buffer for `objective`. `fresh_max` is how many unlearned groups may wait at once
    /// (pacing).
    pub fn new(config: ReplayConfig, objective: Objective, fresh_max: usize, seed: u64) -> Self {
        Self {
            config,
            objective,
            fresh_max,
            seed,
            in_order: false,
            newest: CriticVersion::BASE,
            publications: None,
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

    /// Leases groups in the order of their arrival, not by lot: a run that takes up several groups at once, after a crash,
    /// then learns them as one that had them one by one.
    pub fn lease_in_order(&mut self) {
        self.in_order = true;
    }

    /// Goes on from a snapshot under a new process's limits and objective. A lease that was out is released, because its holder
    /// is gone. Groups from which a changed objective learns nothing are dropped.
    pub fn resume(&mut self, config: ReplayConfig, objective: Objective, fresh_max: usize, seed: u64) {
        (self.config, self.objective, self.fresh_max, self.seed) = (config, objective, fresh_max, seed);
        self.held.retain(|entry| !entry.group.is_zero_variance(objective));
        self.aside.retain(|aside| !aside.entry.group.is_zero_variance(objective));
        self.release_outstanding();
        self.settle();
    }

    /// Whether a lease is out.
    #[cfg(test)]
    pub(crate) fn is_out(&self) -> bool {
        self.out.is_some()
    }

    /// The episodes of the groups held, in the order of arrival.
    #[cfg(test)]
    pub(crate) fn episodes(&self) -> Vec<EpisodeId> {
        self.held.iter().map(|entry| entry.group.episode).collect()
    }

    /// The name of the newest lease, 0 before the first.
    pub fn batch(&self) -> u64 {
        self.batch
    }

    /// Whether one more episode should start while `in_flight` are running: whether its group could still be learned
    /// before it is too old.
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
        let entry = Entry {
            publication: Some(self.publications_mut().of(group.oldest_version())),
            group: Arc::new(group),
            arrival: self.arrivals,
            used_in_steps: Vec::new(),
            leased: false,
        };
        self.held.push(entry);
        self.settle();
        Pushed::Kept
    }

    /// Whether a group of `episode` was ever accepted. Exact for about the last 65,536 episodes; true for older ones.
    pub fn has_seen(&self, episode: EpisodeId) -> bool {
        self.seen.contains(episode)
    }

    /// Leases `groups` groups, the least used first and by a seeded draw (or by arrival) among equals; `None` if there are fewer. A
    /// lease that is still out is returned again instead of a new one.
    pub fn lease(&mut self, groups: usize) -> Option<Lease> {
        if self.out.is_none() {
            let episodes = self.draw(groups)?;
            self.batch += 1;
            self.held.iter_mut().for_each(|entry| entry.leased = episodes.contains(&entry.group.episode));
            self.out = Some(Out { batch: self.batch, episodes });
        }
        let out = self.out.as_ref()?;
        let entry = |episode: &EpisodeId| self.held.iter().find(|entry| entry.group.episode == *episode);
        let leased = out.episodes.iter().filter_map(entry).map(|entry| (Arc::clone(&entry.group), self.age(entry)));
        let (groups, ages) = leased.unzip();
        Some(Lease { batch: out.batch, groups, ages })
    }

    /// The episodes of the next batch. The draw depends only on seed, batch and episode, not on the other groups in the
    /// buffer.
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
        let place = |entry: &Entry| if self.in_order { entry.arrival } else { lot(entry.group.episode) };
        let ranked = |entry: &Entry| (entry.used_in_steps.len(), place(entry), entry.group.episode);
        let mut ranks: Vec<_> = self.held.iter().map(ranked).collect();
        ranks.sort_unstable();
        Some(ranks.into_iter().take(groups).map(|(_, _, episode)| episode).collect())
    }

    /// Records that the lease was learned in `step`: its groups' uses go up by one, and those at the limit are retired.
    /// Returns the groups retired since the last report. A batch that is not out changes and returns nothing.
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

    /// Returns the groups of a lease that was not learned.
    pub fn release(&mut self, batch: u64) {
        if self.out.as_ref().is_some_and(|out| out.batch == batch) {
            self.release_outstanding();
        }
    }

    /// Returns the groups of any lease that is out, which was not learned.
    pub fn release_outstanding(&mut self) {
        self.out = None;
        self.held.iter_mut().for_each(|entry| entry.leased = false);
        self.settle();
    }

    /// Records that the learner published `newest` and retires groups that are too old for it. Returns the groups retired
    /// since the last report.
    pub fn advance(&mut self, newest: CriticVersion) -> Retired {
        self.publications_mut().published(newest);
        self.newest = newest;
        self.settle();
        self.take_retired()
    }

    /// The number of the learner's publications.
    pub fn publications(&self) -> u64 {
        self.publications.as_ref().map_or(self.newest.0, Publications::count)
    }

    /// The newest publication.
    pub fn newest(&self) -> CriticVersion {
        self.newest
    }

    /// Records that `version` writes critiques from now on: they count as written at the newest publication, whoever made
    /// the version.
    pub fn enters_service(&mut self, version: CriticVersion) {
        self.publications_mut().enters_service(version);
    }

    /// As older programs counted them where the snapshot has none.
    fn publications_mut(&mut self) -> &mut Publications {
        let newest = self.newest;
        self.publications.get_or_insert_with(|| Publications::until(newest))
    }

    /// Rewinds to the learner's state after `step` and `publications`, `newest` being the newest of them: later uses are undone, the lease that is
    /// out is released, and groups retired since then come back, except those that had to make room. Returns how many came
    /// back, by the reason for which they had been retired.
    pub fn rewind(&mut self, step: u64, newest: CriticVersion, publications: u64) -> Retired {
        self.publications_mut().rewind(publications);
        (self.step, self.newest) = (step, newest);
        let mut returned = Retired::default();
        self.held.iter_mut().for_each(|entry| entry.used_in_steps.retain(|used| *used <= step));
        for mut aside in std::mem::take(&mut self.aside) {
            let was_used_up = self.is_used_up(&aside.entry);
            aside.entry.used_in_steps.retain(|used| *used <= step);
            if self.is_used_up(&aside.entry) || self.is_too_old(&aside.entry) {
                self.aside.push(aside);
                continue;
            }
            *if was_used_up { &mut returned.used } else { &mut returned.aged } += 1;
            self.held.push(aside.entry);
        }
        self.held.sort_by_key(|entry| entry.arrival);
        self.release_outstanding();
        returned
    }

    /// Records that a complete checkpoint of `step` is on disk: no rewind will go back before it.
    pub fn committed(&mut self, step: u64) {
        self.aside.retain(|aside| aside.step > step);
    }

    /// Takes the counts of groups retired since the last report.
    pub fn take_retired(&mut self) -> Retired {
        std::mem::take(&mut self.retired)
    }

    /// Groups held, including leased ones.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether the buffer holds no group.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Groups that were never learned from and are not leased.
    pub fn fresh(&self) -> usize {
        self.held.iter().filter(|entry| entry.used_in_steps.is_empty() && !entry.leased).count()
    }

    /// Retired groups kept until the next complete checkpoint.
    pub fn aside(&self) -> usize {
        self.aside.len()
    }

    /// Number of held groups used 0, 1, 2, ... times, up to one less than the limit.
    pub fn uses(&self) -> Vec<usize> {
        let mut counts = vec![0; self.config.uses_max as usize];
        for entry in &self.held {
            if let Some(count) = counts.get_mut(entry.used_in_steps.len()) {
                *count += 1;
            }
        }
        counts
    }

    /// Age of the oldest held group in published versions.
    pub fn oldest_age_versions(&self) -> u64 {
        self.held.iter().map(|entry| self.age(entry)).max().unwrap_or_default()
    }

    fn age(&self, entry: &Entry) -> u64 {
        self.publications().saturating_sub(entry.publication.unwrap_or(entry.group.oldest_version().0))
    }

    fn is_too_old(&self, entry: &Entry) -> bool {
        self.age(entry) > self.config.age_versions_max
    }

    fn is_used_up(&self, entry: &Entry) -> bool {
        entry.used_in_steps.len() >= self.config.uses_max as usize
    }

    /// Retires and counts the groups that exceed the limits. Leased groups stay until they are returned.
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
        // Without checkpoints this list would only grow, so its oldest entries are dropped.
        let surplus = self.aside.len().saturating_sub(self.config.groups_max);
        self.aside.drain(..surplus);
    }

    /// The oldest used group, else the oldest; never a leased one.
    fn next_to_make_room(&self) -> Option<usize> {
        let used = |entry: &Entry| !entry.leased && !entry.used_in_steps.is_empty();
        self.held.iter().position(used).or_else(|| self.held.iter().position(|entry| !entry.leased))
    }
}
