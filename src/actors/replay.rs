//! The replay actor: hands out episodes to rollout and batches to the learner, and applies their results to the run state.
//!
//! It keeps a request until it can answer it, so nobody polls. [`RunState`] says what may be answered.
//!
//! Invariant: with [`Pacing::OneByOne`] an episode begins only while the learner waits for a batch and no other episode is
//! under way, so everything scored before has been learned and published.

use super::ask::Reply;
use super::failure::Failure;
use crate::device::CriticWeights;
use crate::prompts::PromptStream;
use crate::prompts::curriculum::Curriculum;
use crate::replay::{Lease, Pushed, Retired};
use crate::run::events::{Activity, Event, EventBus};
use crate::run::journal::Journal;
use crate::run::state::{DropReason, Outcome, Position, RunState, Worker};
use crate::types::{CriticVersion, EpisodeId};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;

/// When the next episode may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pacing {
    /// While its group can still be learned before it is too old.
    ByAge,
    /// After every earlier group was learned.
    OneByOne,
}

/// The replay actor's messages.
pub enum ReplayMsg {
    /// Answer with the worker's next episode, as soon as one may begin; a repeated request gets the same one.
    Begin {
        /// The worker that asks.
        worker: Worker,
        /// Receives the answer.
        reply: Reply<EpisodeId>,
    },
    /// End an episode; answered once that is on disk. A repeated request changes nothing and is answered likewise.
    End {
        /// The episode.
        episode: EpisodeId,
        /// How it ended.
        outcome: Outcome,
        /// What became of its group.
        reply: Reply<Option<Pushed>>,
    },
    /// Answer with a batch to learn, as soon as there is one; until it is settled, a repeated request gets the same one.
    Lease {
        /// How many groups.
        groups: usize,
        /// Receives the answer.
        reply: Reply<Lease>,
    },
    /// Mark a batch as learned or as discarded.
    Settle {
        /// Its name.
        batch: u64,
        /// Learner steps including this one; none if the batch is discarded.
        step: Option<u64>,
        /// Answered once it is done.
        reply: Reply<()>,
    },
    /// Note what changed among the critics.
    Critic {
        /// The change.
        change: CriticChange,
        /// Answered once it is done.
        reply: Reply<()>,
    },
    /// Answer with the learner's position in the run.
    Position {
        /// Receives the answer.
        reply: Reply<Position>,
    },
    /// Answer with the whole run state, for a checkpoint.
    Snapshot {
        /// Receives the answer.
        reply: Reply<RunState>,
    },
}

/// What the actor starts from.
pub struct ReplaySetup {
    /// The run state; the supervisor owns it.
    pub run_state: Arc<Mutex<RunState>>,
    /// When episodes may begin.
    pub pacing: Pacing,
    /// No episode begins after this.
    pub stop: CancellationToken,
    /// Where events go.
    pub events: EventBus,
    /// Receives every change of the run state; none in tests that need no disk.
    pub journal: Option<Arc<Journal>>,
    /// Draws prompts by what their groups taught; none draws all alike.
    pub curriculum: Option<Draw>,
    /// How many checkpoints are kept, each of which may be resumed from.
    pub checkpoints_kept: usize,
}

/// How the curriculum draws prompts.
pub struct Draw {
    /// The prompts.
    pub prompts: Arc<PromptStream>,
    /// The node's seed.
    pub seed: u64,
    /// The smallest probability with which an episode is run.
    pub floor: f32,
}

/// The actor.
pub struct ReplayActor;

/// The requests that wait.
pub struct ReplayState {
    setup: ReplaySetup,
    begins: BTreeMap<Worker, Reply<EpisodeId>>,
    lease: Option<(usize, Reply<Lease>)>,
    paced: bool,
    /// The newest record in the snapshot that was taken last.
    snapshot_record: u64,
    /// The newest record in each of the kept checkpoints, as far as this process wrote them.
    checkpoint_records: VecDeque<u64>,
}

impl Actor for ReplayActor {
    type Msg = ReplayMsg;
    type State = ReplayState;
    type Arguments = ReplaySetup;

    async fn pre_start(&self, _: ActorRef<ReplayMsg>, setup: ReplaySetup) -> Result<ReplayState, ActorProcessingErr> {
        let run_state = setup.run_state.clone();
        let mut run_state = lock(&run_state)?;
        // The workers of the last replay actor are gone.
        run_state.forget_all();
        let (begins, checkpoint_records) = (BTreeMap::new(), VecDeque::new());
        let state = ReplayState { setup, begins, lease: None, paced: false, snapshot_record: 0, checkpoint_records };
        state.write(&mut run_state, || ());
        Ok(state)
    }

    async fn handle(
        &self,
        _: ActorRef<ReplayMsg>,
        message: ReplayMsg,
        state: &mut ReplayState,
    ) -> Result<(), ActorProcessingErr> {
        let run_state = state.setup.run_state.clone();
        let mut run_state = lock(&run_state)?;
        match message {
            ReplayMsg::Begin { worker, reply } => {
                run_state.forget_before(worker.generation);
                state.begins.retain(|waiting, _| waiting.generation >= worker.generation);
                state.begins.insert(worker, reply);
            }
            ReplayMsg::End { episode, outcome, reply } => {
                let pushed = state.end(&mut run_state, episode, outcome);
                state.write(&mut run_state, move || _ = reply.send(pushed));
            }
            ReplayMsg::Lease { groups, reply } => state.lease = Some((groups, reply)),
            ReplayMsg::Settle { batch, step, reply } => {
                let retired = match step {
                    Some(step) => run_state.learned(batch, step),
                    None => run_state.discarded(batch),
                };
                emit_retired(&state.setup.events, &run_state, retired);
                let _ = reply.send(());
            }
            ReplayMsg::Critic { change, reply } => {
                state.critic_changed(&mut run_state, change);
                let _ = reply.send(());
            }
            ReplayMsg::Position { reply } => drop(reply.send(run_state.position())),
            ReplayMsg::Snapshot { reply } => {
                state.snapshot_record = run_state.record;
                // A checkpoint is never ahead of the journal.
                let snapshot = run_state.clone();
                state.write(&mut run_state, move || _ = reply.send(snapshot));
            }
        }
        state.answer(&mut run_state);
        state.write(&mut run_state, || ());
        Ok(())
    }
}

/// A change among the critics.
#[derive(Clone, Debug)]
pub enum CriticChange {
    /// The learner published one, which is on disk.
    Published {
        /// Its version.
        version: CriticVersion,
        /// Learner steps in it.
        step: u64,
    },
    /// One is in service.
    EnteredService {
        /// Its version.
        version: CriticVersion,
        /// Its weights; none if they are the base's.
        critic: Option<CriticWeights>,
    },
    /// One writes some of the critiques, beside the one in service.
    EnteredTrial {
        /// Its version.
        version: CriticVersion,
    },
}

impl ReplayState {
    fn critic_changed(&mut self, run_state: &mut RunState, change: CriticChange) {
        match change {
            CriticChange::Published { version, step } => {
                let retired = run_state.published(version, step);
                run_state.replay.committed(step);
                self.prune();
                emit_retired(&self.setup.events, run_state, retired);
            }
            CriticChange::EnteredService { version, critic } => run_state.enters_service(version, critic),
            CriticChange::EnteredTrial { version } => run_state.enters_trial(version),
        }
    }

    /// Gives the journal what has changed. `acknowledge` is called once it is on disk, with all changes before it.
    fn write(&self, run_state: &mut RunState, acknowledge: impl FnOnce() + Send + 'static) {
        let (first, records) = run_state.take_unwritten();
        match &self.setup.journal {
            Some(journal) => journal.append(first, records, acknowledge),
            None => acknowledge(),
        }
    }

    /// A checkpoint with the last snapshot is on disk: the journal forgets what is older than every kept checkpoint.
    fn prune(&mut self) {
        self.checkpoint_records.push_back(self.snapshot_record);
        if self.checkpoint_records.len() > self.setup.checkpoints_kept
            && let (Some(oldest), Some(journal)) = (self.checkpoint_records.pop_front(), &self.setup.journal)
        {
            journal.prune(oldest);
        }
    }

    /// Ends an episode.
    fn end(&self, run_state: &mut RunState, episode: EpisodeId, outcome: Outcome) -> Option<Pushed> {
        let events = &self.setup.events;
        let dropped = match &outcome {
            Outcome::Dropped(reason) => Some(*reason),
            Outcome::Group(_) => None,
        };
        let pushed = run_state.end(episode, outcome);
        events.emit(ended(run_state, episode, pushed, dropped));
        events.emit(replay_changed(run_state));
        pushed
    }

    /// Answers whatever can be answered now.
    fn answer(&mut self, run_state: &mut RunState) {
        self.answer_lease(run_state);
        self.begins.retain(|_, reply| !reply.is_closed());
        while let Some(worker) = self.next_worker(run_state) {
            let reply = self.begins.remove(&worker).expect("next_worker returns a key of begins");
            self.pass_over(run_state, worker);
            let episode = run_state.begin(worker);
            // A worker that has left asks again and gets the same episode.
            if reply.send(episode).is_ok() {
                self.setup.events.emit(Event::EpisodeStarted { episode, in_flight: run_state.in_flight() });
            }
        }
        let paced = !self.begins.is_empty() && self.setup.pacing == Pacing::ByAge && !self.setup.stop.is_cancelled();
        if paced != self.paced && run_state.counters.episodes > 0 {
            self.paced = paced;
            self.setup.events.emit(Event::ActivityChanged(if paced { Activity::Pacing } else { Activity::Running }));
        }
    }

    /// Passes over episodes that the curriculum does not draw, if `worker` is to get a new one.
    fn pass_over(&self, run_state: &mut RunState, worker: Worker) {
        let Some(Draw { prompts, seed, floor }) = &self.setup.curriculum else { return };
        if run_state.held_by(worker).is_some() {
            return;
        }
        let draws = |known: &Curriculum, episode| known.draws(prompts.prompt(episode), episode, *seed, *floor);
        let episodes = run_state.pass_over(draws);
        if episodes > 0 {
            self.setup.events.emit(Event::PassedOver { episodes });
        }
    }

    fn answer_lease(&mut self, run_state: &mut RunState) {
        let Some((groups, reply)) = self.lease.take() else { return };
        if reply.is_closed() {
            return;
        }
        match run_state.lease(groups) {
            // A learner that has left asks again and gets the same lease.
            Some(lease) => drop(reply.send(lease)),
            None => self.lease = Some((groups, reply)),
        }
    }

    /// A waiting worker that may have its answer.
    fn next_worker(&self, run_state: &RunState) -> Option<Worker> {
        if let Some(worker) = self.begins.keys().find(|worker| run_state.held_by(**worker).is_some()) {
            return Some(*worker);
        }
        let is_admitted = match self.setup.pacing {
            Pacing::ByAge => run_state.replay.admits(run_state.in_flight()),
            Pacing::OneByOne => run_state.in_flight() == 0 && self.lease.is_some(),
        };
        if !is_admitted || self.setup.stop.is_cancelled() {
            return None;
        }
        self.begins.keys().next().copied()
    }
}

fn ended(run_state: &RunState, episode: EpisodeId, pushed: Option<Pushed>, dropped: Option<DropReason>) -> Event {
    Event::EpisodeEnded {
        episode,
        pushed,
        dropped,
        in_flight: run_state.in_flight(),
        counters: run_state.counters.clone(),
    }
}

fn replay_changed(run_state: &RunState) -> Event {
    Event::ReplayChanged { held: run_state.replay.len(), fresh: run_state.replay.fresh() }
}

fn emit_retired(events: &EventBus, run_state: &RunState, retired: Retired) {
    events.emit(replay_changed(run_state));
    if retired != Retired::default() {
        events.emit(Event::GroupsRetired(retired));
    }
}

/// Locks the run state.
///
/// # Errors
/// If a panic left it half changed: then it has to be restored from disk.
pub(crate) fn lock(run_state: &Mutex<RunState>) -> Result<MutexGuard<'_, RunState>, Failure> {
    run_state.lock().map_err(|_| Failure::Panicked("replay panicked while it held the run state".to_owned()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::replay::{Replay, ReplayConfig};
    use tokio::sync::oneshot;

    fn group(episode: EpisodeId) -> Outcome {
        crate::run::state::tests::group(episode, [0.0, 1.0])
    }

    /// A replay actor that lets two unlearned groups wait.
    async fn actor(pacing: Pacing) -> (ActorRef<ReplayMsg>, CancellationToken) {
        let config = ReplayConfig { groups_max: 8, age_versions_max: 4, uses_max: 1 };
        let run_state = Arc::new(Mutex::new(RunState::new(Replay::new(config, crate::types::Objective::Rco, 2, 7))));
        let stop = CancellationToken::new();
        let setup = ReplaySetup {
            run_state,
            pacing,
            stop: stop.clone(),
            events: EventBus::new(None),
            journal: None,
            curriculum: None,
            checkpoints_kept: 1,
        };
        (ReplayActor::spawn(None, ReplayActor, setup).await.unwrap().0, stop)
    }

    /// Sends a request; the answer may come later.
    fn put<T>(actor: &ActorRef<ReplayMsg>, message: impl FnOnce(Reply<T>) -> ReplayMsg) -> oneshot::Receiver<T> {
        let (reply, answer) = oneshot::channel();
        actor.send_message(message(reply)).unwrap();
        answer
    }

    fn begin(actor: &ActorRef<ReplayMsg>, index: usize) -> oneshot::Receiver<EpisodeId> {
        let worker = Worker { generation: 1, index };
        put(actor, |reply| ReplayMsg::Begin { worker, reply })
    }

    async fn end(actor: &ActorRef<ReplayMsg>, episode: EpisodeId) {
        let outcome = group(episode);
        put(actor, |reply| ReplayMsg::End { episode, outcome, reply }).await.unwrap();
    }

    /// Resolves once everything sent before was handled.
    async fn settled(actor: &ActorRef<ReplayMsg>) {
        put(actor, |reply| ReplayMsg::Snapshot { reply }).await.unwrap();
    }

    #[tokio::test]
    async fn an_episode_waits_until_the_learner_has_caught_up() {
        let (actor, _stop) = actor(Pacing::ByAge).await;
        let (first, second) = (begin(&actor, 0).await.unwrap(), begin(&actor, 1).await.unwrap());
        end(&actor, first).await;
        end(&actor, second).await;
        let mut third = begin(&actor, 0);
        settled(&actor).await;
        assert!(third.try_recv().is_err(), "two groups wait to be learned");
        let lease = put(&actor, |reply| ReplayMsg::Lease { groups: 1, reply }).await.unwrap();
        put(&actor, |reply| ReplayMsg::Settle { batch: lease.batch, step: Some(1), reply }).await.unwrap();
        assert_eq!(third.await.unwrap(), EpisodeId(2));
        actor.stop(None);
    }

    #[tokio::test]
    async fn one_by_one_an_episode_begins_only_while_the_learner_waits() {
        let (actor, _stop) = actor(Pacing::OneByOne).await;
        let mut first = begin(&actor, 0);
        settled(&actor).await;
        assert!(first.try_recv().is_err(), "the learner does not wait yet");
        let lease = put(&actor, |reply| ReplayMsg::Lease { groups: 1, reply });
        let first = first.await.unwrap();
        end(&actor, first).await;
        let lease = lease.await.unwrap();
        let mut second = begin(&actor, 0);
        put(&actor, |reply| ReplayMsg::Settle { batch: lease.batch, step: Some(1), reply }).await.unwrap();
        settled(&actor).await;
        assert!(second.try_recv().is_err(), "the learner may be publishing");
        let _lease = put(&actor, |reply| ReplayMsg::Lease { groups: 1, reply });
        assert_eq!(second.await.unwrap(), EpisodeId(1));
        actor.stop(None);
    }

    #[tokio::test]
    async fn nothing_begins_after_a_stop_but_what_is_under_way_ends() {
        let (actor, stop) = actor(Pacing::ByAge).await;
        let first = begin(&actor, 0).await.unwrap();
        stop.cancel();
        let mut second = begin(&actor, 1);
        end(&actor, first).await;
        settled(&actor).await;
        assert!(second.try_recv().is_err());
        let run_state = put(&actor, |reply| ReplayMsg::Snapshot { reply }).await.unwrap();
        assert_eq!(run_state.replay.len(), 1);
        actor.stop(None);
    }

    #[tokio::test]
    async fn an_answer_that_nobody_took_is_given_again() {
        let (actor, _stop) = actor(Pacing::ByAge).await;
        let taken = begin(&actor, 0).await.unwrap();
        assert_eq!(begin(&actor, 0).await.unwrap(), taken, "the worker asked again");
        end(&actor, taken).await;
        let one = put(&actor, |reply| ReplayMsg::Lease { groups: 1, reply }).await.unwrap();
        let again = put(&actor, |reply| ReplayMsg::Lease { groups: 1, reply }).await.unwrap();
        assert_eq!(one, again);
        actor.stop(None);
    }
}
