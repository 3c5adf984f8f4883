//! The supervisor: restarts failed actors within a budget, and ends the run in order.
//!
//! Actors are ordered by dependence. A failed actor and every actor after it are stopped and started again with new
//! references (rest-for-one), after a pause that doubles. More restarts than the budget end the node with an exit code of
//! their own.

mod budget;
mod config;

use super::ask::{Reply, ask};
use super::failure::Failure;
use super::learner::LearnerMsg;
use super::publish::write_checkpoint;
use super::rollout::RolloutMsg;
use super::run_context::RunContext;
use super::tree::Tree;
use crate::learner;
use crate::run::checkpoints::Restored;
use crate::run::events::{Activity, Event};
use crate::run::exit::Exit;
use crate::run::state::RunState;
use crate::types::{ActorKind, Label};
use budget::Budget;
pub use config::SupervisorConfig;
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

/// Messages of the supervisor.
pub enum SupervisorMsg {
    /// Let the work under way finish, write a checkpoint, end.
    Drain,
    /// Write a checkpoint and go on.
    Checkpoint {
        /// Whether it is written.
        reply: Reply<Result<(), Failure>>,
    },
    /// Kill an actor.
    #[cfg(feature = "faults")]
    Kill {
        /// Which.
        actor_kind: ActorKind,
        /// Whether it was up.
        reply: Reply<bool>,
    },
    /// Hit the device thread.
    #[cfg(feature = "faults")]
    Fault {
        /// With this.
        fault: DeviceFault,
        /// Whether there was one.
        reply: Reply<bool>,
    },
}

/// A fault of the device thread.
#[cfg(feature = "faults")]
#[derive(Clone, Copy, Debug)]
pub enum DeviceFault {
    /// It panics.
    Panic,
    /// It stands still for this long.
    Stall(Duration),
}

/// What the supervisor is made from.
pub struct SupervisorSetup {
    /// What the actors are started from.
    pub context: Arc<RunContext>,
    /// What outlives every actor.
    pub run_state: Arc<Mutex<RunState>>,
    /// How the run ended, once it has.
    pub exit: watch::Sender<Option<Exit>>,
}

/// The supervisor's actor.
pub struct Supervisor;

/// The actors and what is left of the budget.
pub struct SupervisorState {
    tree: Tree,
    budget: Budget,
    restarts: u64,
    exit: watch::Sender<Option<Exit>>,
    _stop: JoinSet<()>,
}

impl Actor for Supervisor {
    type Msg = SupervisorMsg;
    type State = SupervisorState;
    type Arguments = SupervisorSetup;

    async fn pre_start(
        &self,
        myself: ActorRef<SupervisorMsg>,
        setup: SupervisorSetup,
    ) -> Result<SupervisorState, ActorProcessingErr> {
        let SupervisorSetup { context, run_state, exit } = setup;
        let (stop, budget) = (context.stop.clone(), Budget::new(context.supervisor.clone()));
        let mut tree = Tree::new(context, run_state, myself.get_cell());
        if let Err(failure) = tree.start(ActorKind::Device).await {
            if let Err(stuck) = tree.stop(ActorKind::Device).await {
                tracing::error!(error = %stuck, "stopping the actors after a failed start");
            }
            exit.send_replace(Some(failure.exit()));
            return Err(failure.into());
        }
        let mut watch = JoinSet::new();
        watch.spawn(async move {
            stop.cancelled().await;
            // If the supervisor is gone, there is nothing to drain.
            let _ = myself.send_message(SupervisorMsg::Drain);
        });
        Ok(SupervisorState { tree, budget, restarts: 0, exit, _stop: watch })
    }

    async fn handle(
        &self,
        myself: ActorRef<SupervisorMsg>,
        message: SupervisorMsg,
        state: &mut SupervisorState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            SupervisorMsg::Drain => {
                let exit = state.drain().await;
                state.end(exit, &myself).await;
            }
            SupervisorMsg::Checkpoint { reply } => drop(reply.send(state.save().await)),
            #[cfg(feature = "faults")]
            SupervisorMsg::Kill { actor_kind, reply } => {
                let cell = state.tree.cell(actor_kind);
                cell.iter().for_each(|cell| cell.kill());
                let _ = reply.send(cell.is_some());
            }
            #[cfg(feature = "faults")]
            SupervisorMsg::Fault { fault, reply } => {
                let device = state.tree.device();
                device.iter().for_each(|device| match fault {
                    DeviceFault::Panic => device.inject_fault("injected fault"),
                    DeviceFault::Stall(duration) => device.inject_stall(duration),
                });
                let _ = reply.send(device.is_some());
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<SupervisorMsg>,
        event: SupervisionEvent,
        state: &mut SupervisorState,
    ) -> Result<(), ActorProcessingErr> {
        let (who, failure) = match event {
            SupervisionEvent::ActorFailed(who, error) => (who, Some(error)),
            SupervisionEvent::ActorTerminated(who, _, _) => (who, None),
            _ => return Ok(()),
        };
        // An actor that was stopped on purpose is no longer in the tree.
        let Some(actor_kind) = state.tree.actor_kind(who.get_id()) else { return Ok(()) };
        let failure = match failure.map(|error| error.downcast::<Failure>()) {
            Some(Ok(failure)) => *failure,
            Some(Err(panic)) => Failure::Panicked(panic.to_string()),
            None => Failure::Killed(actor_kind.value()),
        };
        if let Err(exit) = state.restart(actor_kind, failure).await {
            state.end(exit, &myself).await;
        }
        Ok(())
    }
}

impl SupervisorState {
    /// Restarts `actor_kind` and every actor after it.
    ///
    /// # Errors
    /// The exit code, if the budget is used up or the device thread does not end.
    async fn restart(&mut self, actor_kind: ActorKind, failure: Failure) -> Result<(), Exit> {
        let context = self.tree.context.clone();
        let (mut from, mut failure) = (actor_kind, failure);
        context.events.emit(Event::ActivityChanged(Activity::Restarting));
        loop {
            let next = match failure.is_lasting() {
                true => "an actor failed, for a reason that a restart cannot mend: the run ends",
                false => "an actor failed: it and those that depend on it are started again",
            };
            tracing::warn!(actor_kind = from.value(), error = %failure, "{next}");
            if self.tree.run_state.is_poisoned() {
                from = ActorKind::Device;
            }
            self.tree.stop(from).await.map_err(|stuck| give_up(&stuck))?;
            let pause = if failure.is_lasting() { None } else { self.budget.spend(Instant::now()) };
            let Some(pause) = pause else { return Err(self.give_up(&failure).await) };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                // The drain that follows takes what is left.
                () = context.stop.cancelled() => return Ok(()),
            }
            self.restarts += 1;
            match self.tree.start(from).await {
                Ok(()) => break,
                Err(again) => failure = again,
            }
        }
        context.events.emit(Event::Restarted { actor_kind: from, restarts: self.restarts });
        context.events.emit(Event::ActivityChanged(Activity::Running));
        Ok(())
    }

    /// Ends the run because of `failure`; what the device has learned is saved, if it is alive.
    async fn give_up(&mut self, failure: &Failure) -> Exit {
        // A step that is taken after the snapshot is neither told nor settled.
        if let Err(stuck) = self.tree.stop(ActorKind::Replay).await {
            return give_up(&stuck);
        }
        if self.tree.device().is_some()
            && let Err(unsaved) = self.save().await
        {
            tracing::error!(error = %unsaved, "the last checkpoint was not written");
        }
        give_up(failure)
    }

    /// Lets the work under way finish within its deadline, then writes a checkpoint.
    async fn drain(&mut self) -> Exit {
        let context = self.tree.context.clone();
        context.events.emit(Event::ActivityChanged(Activity::Draining));
        tokio::join!(self.drain_rollout(context.drain), self.drain_learner(context.drain));
        if let Err(stuck) = self.tree.stop(ActorKind::Replay).await {
            return give_up(&stuck);
        }
        context.events.emit(Event::ActivityChanged(Activity::Saving));
        if let Err(failure) = self.save().await {
            tracing::error!(error = %failure, "the last checkpoint was not written");
            return failure.exit();
        }
        // Everything is saved: a slow device thread must not delay the end of the process.
        if tokio::time::timeout(THREAD_STOP_DEADLINE, self.tree.stop(ActorKind::Device)).await.is_err() {
            tracing::debug!("the device thread is still ending");
        }
        Exit::Done
    }

    async fn drain_rollout(&self, patience: Duration) {
        if let Some(rollout) = self.tree.rollout() {
            // A resumed run runs again the episodes that do not end in time.
            let _ = ask(rollout, patience, |reply| RolloutMsg::Drain { reply }).await;
        }
    }

    async fn drain_learner(&self, patience: Duration) {
        let (Some(learner), Some(device)) = (self.tree.learner(), self.tree.device()) else { return };
        if ask(learner, patience, |reply| LearnerMsg::Drain { reply }).await.is_ok() {
            return;
        }
        // The lease stays out, so a resumed run learns the batch.
        let abandoned = async {
            device.abandon().await.ok()?;
            ask(learner, ABANDON_DEADLINE, |reply| LearnerMsg::Drain { reply }).await.ok()
        };
        if tokio::time::timeout(ABANDON_DEADLINE, abandoned).await.is_err() {
            tracing::warn!("the learner step under way did not end in time");
        }
    }

    /// Writes the checkpoint that a resumed run continues from.
    async fn save(&self) -> Result<(), Failure> {
        let started = Instant::now();
        let state = match self.tree.device() {
            Some(device) => tokio::time::timeout(SNAPSHOT_DEADLINE, device.snapshot()).await.ok().and_then(Result::ok),
            None => None,
        };
        let events = &self.tree.context.events;
        let state = self.or_restored(state).await.inspect_err(|_| events.emit(Event::CheckpointFailed))?;
        let mut run_state = self.journaled_run_state().await?;
        let Some(state) = state else {
            tracing::warn!("no checkpoint was written: the device did not answer; --resume goes on from the journal");
            return Ok(());
        };
        // The device may have taken the step and the learner actor been stopped before it reported it.
        run_state.learned(state.batch, state.step);
        write_checkpoint(self.tree.context.checkpoints.clone(), events, started, state, run_state).await
    }

    /// The run state, once the journal has all of it: a checkpoint is never ahead of the journal.
    async fn journaled_run_state(&self) -> Result<RunState, Failure> {
        let (first, records, run_state) = {
            let mut run_state = self.tree.run_state.lock().unwrap_or_else(PoisonError::into_inner);
            let (first, records) = run_state.take_unwritten();
            (first, records, run_state.clone())
        };
        let (reply, written) = oneshot::channel();
        self.tree.context.journal.append(first, records, move || _ = reply.send(()));
        match tokio::time::timeout(JOURNAL_DEADLINE, written).await {
            Ok(Ok(())) => Ok(run_state),
            _ => Err(Failure::JournalStuck { seconds: JOURNAL_DEADLINE.as_secs() }),
        }
    }

    /// The state of the learner; if the device is gone, that of the newest checkpoint.
    async fn or_restored(&self, state: Option<learner::State>) -> Result<Option<learner::State>, Failure> {
        match state {
            Some(state) if !self.tree.run_state.is_poisoned() => Ok(Some(state)),
            _ => {
                let restored = self.tree.restore().await?;
                if let Some(Restored { learner, .. }) = &restored {
                    tracing::warn!(
                        step = learner.step,
                        "the device did not answer: what it learned since is learned again"
                    );
                }
                Ok(restored.map(|restored| restored.learner))
            }
        }
    }

    async fn end(&self, exit: Exit, myself: &ActorRef<SupervisorMsg>) {
        let (journal, records) = (self.tree.context.journal.clone(), self.tree.context.records.clone());
        // The thread that closes it has said so if it panicked.
        let closed = tokio::task::spawn_blocking(move || {
            journal.close();
            records.iter().for_each(|records| records.close(RECORDS_DEADLINE));
        });
        if tokio::time::timeout(JOURNAL_DEADLINE, closed).await.is_err() {
            tracing::error!("the journal was not closed in time: the disk does not answer");
        }
        self.tree.context.events.emit(Event::ActivityChanged(Activity::Ended));
        self.exit.send_replace(Some(exit));
        myself.stop(None);
    }
}

// With the default `node.drain_seconds` of 4, a node ends within ten seconds.

/// How long an abandoned step may take to end.
const ABANDON_DEADLINE: Duration = Duration::from_millis(1500);
/// How long the device may take to return the learner's state: an engine step or a micro-batch takes seconds on a slow or
/// busy machine.
const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(20);
/// How long the journal may take before the last checkpoint, and to be closed: a disk that fails for longer ends the run
/// without it.
const JOURNAL_DEADLINE: Duration = Duration::from_secs(30);
/// How long the last records of episodes may take to be written.
const RECORDS_DEADLINE: Duration = Duration::from_secs(2);
/// How long the device thread may take to end once everything is saved.
const THREAD_STOP_DEADLINE: Duration = Duration::from_millis(500);

fn give_up(failure: &Failure) -> Exit {
    let exit = failure.exit();
    tracing::error!(error = %failure, code = exit as u8, "giving up");
    exit
}
