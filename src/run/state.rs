//! The run state: what outlives every actor, that is scored groups, open episodes and counters. Pure.
//!
//! It is behind one lock, which the supervisor owns and the replay actor uses. Actors are killed at await points only, and
//! the lock is never held across one, so a kill cannot leave it half changed.
//!
//! Invariants: an episode is open from its begin to its end, whatever fails in between; its group is taken once; a worker
//! that asks twice gets the same episode twice.

use crate::checkpoint::CriticWeights;
use crate::prompts::Ledger;
use crate::replay::{Pushed, Replay, Retired};
use crate::types::{CriticVersion, CritiqueGroup, EpisodeId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Why a critique or an episode was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DropReason {
    /// The generator or the critic did not answer in time.
    Deadline,
    /// A prompt did not fit into the context.
    TooLong,
    /// A remote server gave no answer.
    Remote,
    /// No refinement of the critique got a valid verdict.
    NoVerdict,
    /// Fewer than two critiques were left.
    FewCritiques,
}

/// How an episode ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// With a scored group.
    Group(CritiqueGroup),
    /// Without one.
    Dropped(DropReason),
}

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
        *self.workers.entry(worker).or_insert_with(|| self.ledger.begin())
    }

    /// Ends an episode. A group that was pushed before changes nothing.
    pub fn end(&mut self, episode: EpisodeId, outcome: Outcome) -> Option<Pushed> {
        self.workers.retain(|_, held| *held != episode);
        if !self.ledger.end(episode) {
            return Some(Pushed::Duplicate);
        }
        self.counters.episodes += 1;
        let Outcome::Group(group) = outcome else {
            self.counters.dropped += 1;
            return None;
        };
        let utility = group.mean_utility();
        let pushed = self.replay.push(group);
        if pushed != Pushed::Duplicate {
            self.counters.groups += 1;
            self.counters.zero_variance += u64::from(pushed == Pushed::ZeroVariance);
            let mean = self.counters.utility_mean.unwrap_or(utility);
            self.counters.utility_mean = Some(mean + UTILITY_WEIGHT * (utility - mean));
        }
        let retired = self.replay.take_retired();
        self.count_retired(retired);
        Some(pushed)
    }

    /// Batch `batch` was learned: the learner has now taken `step` steps.
    pub fn learned(&mut self, batch: u64, step: u64) -> Retired {
        self.step = step;
        let retired = self.replay.learned(batch, step);
        self.count_retired(retired)
    }

    /// Batch `batch` cannot be learned: it counts as used, so that it is not leased forever.
    pub fn discarded(&mut self, batch: u64) -> Retired {
        self.counters.discarded += 1;
        let retired = self.replay.learned(batch, self.step);
        self.count_retired(retired)
    }

    /// `critic` went into service as `version` after `step` steps.
    pub fn published(&mut self, version: CriticVersion, critic: CriticWeights, step: u64) -> Retired {
        (self.version, self.served) = (version, Some(critic));
        self.published_step = step;
        let retired = self.replay.advance(version);
        self.count_retired(retired)
    }

    /// The learner went back to the checkpoint whose run state is `saved`. Groups scored since are kept.
    pub fn rewind(&mut self, saved: &Self) {
        (self.step, self.published_step) = (saved.step, saved.published_step);
        (self.version, self.served) = (saved.version, saved.served.clone());
        self.replay.rewind(saved.step, saved.version);
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
pub(crate) mod tests {
    use super::*;
    use crate::replay::ReplayConfig;
    use crate::types::{Completion, FinishReason, Objective, ScoredCritique};

    fn run_state() -> RunState {
        RunState::new(Replay::new(
            ReplayConfig { groups_max: 8, age_versions_max: 4, uses_max: 1 },
            Objective::Rco,
            4,
            7,
        ))
    }

    /// An episode's end: two critiques of these utilities.
    pub(crate) fn group(episode: EpisodeId, utilities: [f32; 2]) -> Outcome {
        let critique = |utility| {
            let finish = FinishReason::Stop;
            let written = Completion {
                text: "c".into(),
                ids: vec![1],
                log_probs: vec![0.0],
                version: CriticVersion::BASE,
                finish,
            };
            ScoredCritique { completion: written, utility, verdicts: vec![] }
        };
        let critiques = utilities.map(critique).to_vec();
        Outcome::Group(CritiqueGroup {
            episode,
            prompt_id: "p".into(),
            task: "t".into(),
            prefix_ids: vec![1],
            critiques,
            preferences: vec![],
        })
    }

    fn worker(generation: u64, index: usize) -> Worker {
        Worker { generation, index }
    }

    #[test]
    fn a_worker_that_asks_again_gets_the_same_episode() {
        let mut run_state = run_state();
        let first = run_state.begin(worker(1, 0));
        assert_eq!(run_state.begin(worker(1, 0)), first);
        assert_ne!(run_state.begin(worker(1, 1)), first);
        assert_eq!(run_state.in_flight(), 2);
        run_state.end(first, group(first, [0.0, 1.0]));
        assert_ne!(run_state.begin(worker(1, 0)), first);
    }

    #[test]
    fn what_a_dead_generation_had_under_way_is_run_again_before_anything_new() {
        let mut run_state = run_state();
        let old = [run_state.begin(worker(1, 0)), run_state.begin(worker(1, 1))];
        run_state.end(old[0], group(old[0], [0.0, 1.0]));
        run_state.forget_before(2);
        assert_eq!(run_state.in_flight(), 0);
        assert_eq!(run_state.begin(worker(2, 0)), old[1]);
        assert_eq!(run_state.begin(worker(2, 1)), EpisodeId(2));
    }

    #[test]
    fn what_a_dead_process_had_under_way_is_run_again() {
        let mut run_state = run_state();
        let (lost, _) = (run_state.begin(worker(1, 0)), run_state.begin(worker(1, 1)));
        let saved = serde_json::to_value(&run_state).unwrap();
        let mut restored: RunState = serde_json::from_value(saved).unwrap();
        restored.forget_all();
        assert_eq!(restored.begin(worker(1, 0)), lost);
    }

    #[test]
    fn an_episode_is_taken_once_and_counted_once() {
        let mut run_state = run_state();
        let episode = run_state.begin(worker(1, 0));
        assert_eq!(run_state.end(episode, group(episode, [0.0, 1.0])), Some(Pushed::Kept));
        assert_eq!(run_state.end(episode, group(episode, [0.0, 1.0])), Some(Pushed::Duplicate));
        assert_eq!(run_state.end(episode, Outcome::Dropped(DropReason::Deadline)), Some(Pushed::Duplicate));
        let same = run_state.begin(worker(1, 0));
        assert_eq!(run_state.end(same, group(same, [1.0, 1.0])), Some(Pushed::ZeroVariance));
        let dropped = run_state.begin(worker(1, 0));
        assert_eq!(run_state.end(dropped, Outcome::Dropped(DropReason::Deadline)), None);
        let counters = &run_state.counters;
        assert_eq!((counters.episodes, counters.groups, counters.zero_variance, counters.dropped), (3, 2, 1, 1));
    }

    #[test]
    fn going_back_keeps_what_was_scored_and_forgets_what_was_learned_since() {
        let mut run_state = run_state();
        for _ in 0..2 {
            let episode = run_state.begin(worker(1, 0));
            run_state.end(episode, group(episode, [0.0, 1.0]));
        }
        let saved = run_state.clone();
        let lease = run_state.replay.lease(1).unwrap();
        let used = run_state.learned(lease.batch, 1);
        assert_eq!((used.used, run_state.step, run_state.replay.len()), (1, 1, 1));
        run_state.rewind(&saved);
        assert_eq!((run_state.step, run_state.replay.len()), (0, 2));
        assert!(run_state.replay.lease(1).unwrap().batch > lease.batch, "a batch's name is not used again");
    }

    #[test]
    fn a_batch_that_cannot_be_learned_is_used_up_like_any_other() {
        let mut run_state = run_state();
        let episode = run_state.begin(worker(1, 0));
        run_state.end(episode, group(episode, [0.0, 1.0]));
        let lease = run_state.replay.lease(1).unwrap();
        run_state.discarded(lease.batch);
        assert_eq!((run_state.counters.discarded, run_state.replay.len(), run_state.step), (1, 0, 0));
        assert!(run_state.replay.lease(1).is_none());
    }
}
