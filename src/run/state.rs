//! The run state: what outlives every actor, that is scored groups, open episodes and counters. Pure.
//!
//! It is behind one lock, which the supervisor owns and the replay actor uses. Actors are killed at await points only, and
//! the lock is never held across one, so a kill cannot leave it half changed.
//!
//! Every change is also a [`Record`] for the journal: applying the records in order to an earlier state gives the later state.
//!
//! Invariants: an episode is open from its begin to its end, whatever fails in between; its group is taken once; a worker
//! that asks twice gets the same episode twice.

use super::journal::Record;
pub use super::outcome::{DropReason, Outcome};
use crate::checkpoint::CriticWeights;
use crate::prompts::Ledger;
use crate::prompts::curriculum::Curriculum;
use crate::replay::{Lease, Pushed, Replay, ReplayConfig, Retired};
use crate::types::{CriticVersion, EpisodeId, Objective};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A worker of the rollout actor: it runs one episode at a time. The workers of a generation replace those of all earlier
/// ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Worker {
    /// Which start of the rollout actor it belongs to, from 1.
    pub generation: u64,
    /// Its index among the workers.
    pub index: usize,
}

/// What a run has done, over all its resumptions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counters {
    /// Episodes that ended.
    pub episodes: u64,
    /// Groups that were scored, those of zero variance included.
    pub groups: u64,
    /// Groups of zero variance: nothing to learn.
    #[serde(rename = "flat")]
    pub zero_variance: u64,
    /// Episodes that made no group.
    pub dropped: u64,
    /// Moving mean of the groups' mean utility.
    pub utility_mean: Option<f32>,
    /// Groups that left the buffer.
    pub retired: Retired,
    /// Batches given up because loss or gradient was not finite.
    pub discarded: u64,
}

/// Where the learner is in the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Learner steps taken and acknowledged.
    pub step: u64,
    /// The step of the newest publication.
    pub published_step: u64,
    /// The critic in service.
    pub version: CriticVersion,
}

/// Episodes passed over in a row: with the smallest floor there are hardly ever more.
const PASSED_OVER_MAX: u64 = 1000;
/// Weight of the newest group in [`Counters::utility_mean`].
const UTILITY_WEIGHT: f32 = 0.05;

/// What outlives every actor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    /// Scored groups.
    pub replay: Replay,
    /// Episodes started and not ended.
    pub ledger: Ledger,
    /// The counters.
    pub counters: Counters,
    /// Learner steps taken and acknowledged.
    pub step: u64,
    /// The step of the newest publication.
    pub published_step: u64,
    /// The critic in service.
    pub version: CriticVersion,
    /// The weights in service; none while they are the base's. A checkpoint saves them as tensors.
    #[serde(skip)]
    pub served: Option<CriticWeights>,
    /// The episode of each worker; empty in a new process.
    #[serde(skip)]
    workers: BTreeMap<Worker, EpisodeId>,
    /// Which prompts' groups varied.
    #[serde(default)]
    pub curriculum: Curriculum,
    /// The number of the newest record that the journal was given; records count from 1.
    #[serde(default)]
    pub record: u64,
    /// Changes that the journal was not given yet.
    #[serde(skip)]
    unwritten: Vec<Record>,
}

impl RunState {
    /// The state at the beginning of a run.
    pub fn new(replay: Replay) -> Self {
        Self {
            replay,
            ledger: Ledger::default(),
            counters: Counters::default(),
            step: 0,
            published_step: 0,
            version: CriticVersion::BASE,
            served: None,
            workers: BTreeMap::new(),
            curriculum: Curriculum::default(),
            record: 0,
            unwritten: Vec::new(),
        }
    }

    /// The learner's position.
    pub fn position(&self) -> Position {
        Position { step: self.step, published_step: self.published_step, version: self.version }
    }

    /// Episodes under way.
    pub fn in_flight(&self) -> usize {
        self.workers.len()
    }

    /// The episode that `worker` runs.
    pub fn held_by(&self, worker: Worker) -> Option<EpisodeId> {
        self.workers.get(&worker).copied()
    }

    /// Forgets the workers of generations before `generation`: their episodes are run again.
    pub fn forget_before(&mut self, generation: u64) {
        let gone = self.workers.extract_if(.., |worker, _| worker.generation < generation);
        self.ledger.waiting.extend(gone.map(|(_, episode)| episode));
    }

    /// Forgets all workers: every open episode is run again.
    pub fn forget_all(&mut self) {
        self.workers.clear();
        self.ledger.reopen();
    }

    /// The episode of `worker`: the one it has, else one to be run again, else a new one.
    pub fn begin(&mut self, worker: Worker) -> EpisodeId {
        if let Some(episode) = self.held_by(worker) {
            return episode;
        }
        let episode = self.ledger.begin();
        self.workers.insert(worker, episode);
        self.unwritten.push(Record::Started { episode });
        episode
    }

    /// Passes over new episodes until `draws` says that the next one is to be run. Returns how many were passed over.
    pub fn pass_over(&mut self, draws: impl Fn(&Curriculum, EpisodeId) -> bool) -> u64 {
        let first = self.ledger.next;
        while self.ledger.is_next_new()
            && self.ledger.next - first < PASSED_OVER_MAX
            && !draws(&self.curriculum, EpisodeId(self.ledger.next))
        {
            self.ledger.pass_over();
        }
        self.ledger.next - first
    }

    /// Ends an episode. A group that was pushed before changes nothing.
    pub fn end(&mut self, episode: EpisodeId, outcome: Outcome) -> Option<Pushed> {
        self.workers.retain(|_, held| *held != episode);
        if !self.ledger.end(episode) {
            return Some(Pushed::Duplicate);
        }
        self.unwritten.push(Record::Ended { episode, outcome: outcome.clone() });
        self.counters.episodes += 1;
        let Outcome::Group(group) = outcome else {
            self.counters.dropped += 1;
            return None;
        };
        let utility = group.mean_utility();
        let (id, task) = (group.prompt_id.clone(), group.task.clone());
        let pushed = self.replay.push(group);
        if pushed != Pushed::Duplicate {
            self.curriculum.note(&id, &task, pushed == Pushed::Kept);
            self.counters.groups += 1;
            self.counters.zero_variance += u64::from(pushed == Pushed::ZeroVariance);
            let mean = self.counters.utility_mean.unwrap_or(utility);
            self.counters.utility_mean = Some(mean + UTILITY_WEIGHT * (utility - mean));
        }
        let retired = self.replay.take_retired();
        self.count_retired(retired);
        Some(pushed)
    }

    /// Leases `groups` groups to the learner; none if there are fewer. A lease that is out is returned again.
    pub fn lease(&mut self, groups: usize) -> Option<Lease> {
        let before = self.replay.batch();
        let lease = self.replay.lease(groups)?;
        if lease.batch != before {
            self.unwritten.push(Record::Leased { groups });
        }
        Some(lease)
    }

    /// Batch `batch` was learned: the learner has now taken `step` steps.
    pub fn learned(&mut self, batch: u64, step: u64) -> Retired {
        self.unwritten.push(Record::Learned { batch, step });
        self.step = step;
        let retired = self.replay.learned(batch, step);
        self.count_retired(retired)
    }

    /// Batch `batch` cannot be learned: it counts as used, so that it is not leased forever.
    pub fn discarded(&mut self, batch: u64) -> Retired {
        self.unwritten.push(Record::Discarded { batch });
        self.counters.discarded += 1;
        let retired = self.replay.learned(batch, self.step);
        self.count_retired(retired)
    }

    /// The learner published `version` after `step` steps. It is not in service before [`RunState::enters_service`].
    pub fn published(&mut self, version: CriticVersion, step: u64) -> Retired {
        self.unwritten.push(Record::Published { version, step, serves: false });
        self.published_step = step;
        let retired = self.replay.advance(version);
        self.count_retired(retired)
    }

    /// `version` is in service from now on; `critic` are its weights, none if they are the base's.
    pub fn enters_service(&mut self, version: CriticVersion, critic: Option<CriticWeights>) {
        self.served = critic;
        self.serve(version);
    }

    /// `version` writes some of the critiques from now on, beside the critic in service.
    pub fn enters_trial(&mut self, version: CriticVersion) {
        self.unwritten.push(Record::EnteredTrial { version });
        self.replay.enters_service(version);
    }

    fn serve(&mut self, version: CriticVersion) {
        self.unwritten.push(Record::EnteredService { version });
        self.version = version;
        self.replay.enters_service(version);
    }

    /// The learner went back to the checkpoint whose run state is `saved`. Groups scored since are kept.
    pub fn rewind(&mut self, saved: &Self) {
        self.served.clone_from(&saved.served);
        let publications = Some((saved.replay.newest(), saved.replay.publications()));
        self.go_back(saved.step, saved.published_step, saved.version, publications);
    }

    fn go_back(
        &mut self,
        step: u64,
        published_step: u64,
        version: CriticVersion,
        publications: Option<(CriticVersion, u64)>,
    ) {
        self.unwritten.push(Record::Rewound { step, published_step, version, publications });
        (self.step, self.published_step, self.version) = (step, published_step, version);
        let (newest, publications) = publications.unwrap_or((version, version.0));
        let returned = self.replay.rewind(step, newest, publications);
        let total = &mut self.counters.retired;
        total.used = total.used.saturating_sub(returned.used);
        total.aged = total.aged.saturating_sub(returned.aged);
    }

    /// A new process goes on under these limits.
    pub fn resumed(&mut self, replay: ReplayConfig, objective: Objective, fresh_max: usize, seed: u64) {
        self.unwritten.push(Record::Resumed { replay: replay.clone(), objective, fresh_max, seed });
        self.replay.resume(replay, objective, fresh_max, seed);
    }

    /// Takes the changes since the last call, and the number of the first of them.
    pub fn take_unwritten(&mut self) -> (u64, Vec<Record>) {
        let first = self.record + 1;
        self.record += self.unwritten.len() as u64;
        (first, std::mem::take(&mut self.unwritten))
    }

    /// Applies the `records` that are newer than this state. The weights in service stay.
    ///
    /// # Errors
    /// The number of the first record that is missing between this state and `records`.
    pub fn replay_records(&mut self, records: impl IntoIterator<Item = (u64, Record)>) -> Result<(), u64> {
        let known = self.record;
        for (number, record) in records.into_iter().filter(|(number, _)| *number > known) {
            if number != self.record + 1 {
                return Err(self.record + 1);
            }
            self.apply(record);
            self.record = number;
        }
        self.unwritten.clear();
        Ok(())
    }

    fn apply(&mut self, record: Record) {
        match record {
            Record::Started { episode } => self.ledger.start(episode),
            Record::Ended { episode, outcome } => drop(self.end(episode, outcome)),
            Record::Leased { groups } => drop(self.lease(groups)),
            Record::Learned { batch, step } => drop(self.learned(batch, step)),
            Record::Discarded { batch } => drop(self.discarded(batch)),
            Record::Published { version, step, serves } => {
                self.published(version, step);
                if serves {
                    self.serve(version);
                }
            }
            Record::EnteredService { version } => self.serve(version),
            Record::EnteredTrial { version } => self.enters_trial(version),
            Record::Rewound { step, published_step, version, publications } => {
                self.go_back(step, published_step, version, publications);
            }
            Record::Resumed { replay, objective, fresh_max, seed } => {
                self.resumed(replay, objective, fresh_max, seed);
            }
        }
    }

    fn count_retired(&mut self, retired: Retired) -> Retired {
        let total = &mut self.counters.retired;
        total.aged += retired.aged;
        total.used += retired.used;
        total.displaced += retired.displaced;
        retired
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests;
