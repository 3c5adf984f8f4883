//! The supervisor: restarts what fails and all that stands on it, within a budget; ends the run in order.
//!
//! The order of stations is the order of dependence. A failed station and everything after it are
//! felled and raised again with new references (rest-for-one), after a pause that doubles. More
//! failures than the budget end the node with an exit code of their own.

mod budget;
mod config;

use super::ask::{Reply, ask};
use super::failure::Failure;
use super::learner::LearnerMsg;
use super::rollout::RolloutMsg;
use super::run_context::RunContext;
use super::tree::Tree;
use crate::learner;
use crate::run::events::{Activity, Event};
use crate::run::exit::Exit;
use crate::run::state::RunState;
use crate::types::{ActorKind, Label};
use budget::Budget;
pub use config::SupervisorConfig;
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What the supervisor can be told.
pub enum SupervisorMsg {
    /// Let what is under way end, write a checkpoint, end.
    Drain,
    /// Kill a station, as a fault would; for tests of what happens then.
    Kill {
        /// Which.
        actor_kind: ActorKind,
        /// Whether it was up.
        reply: Reply<bool>,
    },
    /// Make the device thread panic, as a fault would; for tests of what happens then.
    Fault {
        /// Whether there was one.
        reply: Reply<bool>,
    },
}

/// What the supervisor is made from.
pub struct SupervisorSetup {
    /// What the tree is raised from.
    pub context: Arc<RunContext>,
    /// What outlives every station.
    pub run_state: Arc<Mutex<RunState>>,
    /// How the run ended, once it has.
    pub exit: watch::Sender<Option<Exit>>,
}

/// The shell.
pub struct Supervisor;

/// The tree and what is left of the budget.
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
        if let Err(failure) = tree.raise(ActorKind::Device).await {
            if let Err(stuck) = tree.fell(ActorKind::Device).await {
                tracing::error!(error = %stuck, "felling a tree that did not rise");
            }
            exit.send_replace(Some(failure.exit()));
            return Err(failure.into());
        }
        let mut watch = JoinSet::new();
        watch.spawn(async move {
            stop.requested().await;
            // A supervisor that is gone has nothing to drain.
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
                state.end(exit, &myself);
            }
            SupervisorMsg::Kill { actor_kind, reply } => {
                let cell = state.tree.cell(actor_kind);
                cell.iter().for_each(|cell| cell.kill());
                let _ = reply.send(cell.is_some());
            }
            SupervisorMsg::Fault { reply } => {
                let device = state.tree.device();
                device.iter().for_each(|device| device.inject_fault("injected fault"));
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
        // What was felled on purpose is no longer in the tree.
        let Some(actor_kind) = state.tree.actor_kind(who.get_id()) else { return Ok(()) };
        let failure = match failure.map(|error| error.downcast::<Failure>()) {
            Some(Ok(failure)) => *failure,
            Some(Err(panic)) => Failure::Panicked(panic.to_string()),
            None => Failure::Killed(actor_kind.value()),
        };
        if let Err(exit) = state.restart(actor_kind, failure).await {
            state.end(exit, &myself);
        }
        Ok(())
    }
}

impl SupervisorState {
    /// Raises `actor_kind` and all that stand on it again; an exit where that is not to be.
    async fn restart(&mut self, actor_kind: ActorKind, failure: Failure) -> Result<(), Exit> {
        let context = self.tree.context.clone();
        let (mut from, mut failure) = (actor_kind, failure);
        context.events.emit(Event::Turned(Activity::Restarting));
        loop {
            tracing::warn!(actor_kind = from.value(), error = %failure, "a station failed");
            if self.tree.run_state.is_poisoned() {
                from = ActorKind::Device;
            }
            self.tree.fell(from).await.map_err(|stuck| give_up(&stuck))?;
            let Some(pause) = self.budget.spend(Instant::now()) else { return Err(give_up(&failure)) };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                // What is left is drained instead.
                () = context.stop.requested() => return Ok(()),
            }
            self.restarts += 1;
            match self.tree.raise(from).await {
                Ok(()) => break,
                Err(again) => failure = again,
            }
        }
        context.events.emit(Event::Restarted { actor_kind: from, restarts: self.restarts });
        context.events.emit(Event::Turned(Activity::Running));
        Ok(())
    }

    /// Lets what is under way end in time, then writes a checkpoint.
    async fn drain(&mut self) -> Exit {
        let context = self.tree.context.clone();
        context.events.emit(Event::Turned(Activity::Draining));
        tokio::join!(self.drain_rollout(context.drain), self.drain_learner(context.drain));
        if let Err(stuck) = self.tree.fell(ActorKind::Replay).await {
            return give_up(&stuck);
        }
        context.events.emit(Event::Turned(Activity::Saving));
        if let Err(failure) = self.save().await {
            tracing::error!(error = %failure, "the last checkpoint was not written");
            context.events.emit(Event::NotSaved);
            return failure.exit();
        }
        // All is saved: a thread that takes longer must not hold the process.
        if tokio::time::timeout(LETTING_GO, self.tree.fell(ActorKind::Device)).await.is_err() {
            tracing::debug!("left the device thread to end by itself");
        }
        Exit::Done
    }

    async fn drain_rollout(&self, patience: Duration) {
        if let Some(rollout) = self.tree.rollout() {
            // Whoever does not end in time is run again by a resumed run.
            let _ = ask(rollout, patience, |reply| RolloutMsg::Drain { reply }).await;
        }
    }

    async fn drain_learner(&self, patience: Duration) {
        let (Some(learner), Some(device)) = (self.tree.learner(), self.tree.device()) else { return };
        if ask(learner, patience, |reply| LearnerMsg::Drain { reply }).await.is_ok() {
            return;
        }
        // The lease stays out, so the batch is learned by a resumed run.
        let abandoned = async {
            device.abandon().await.ok()?;
            ask(learner, GIVING_UP, |reply| LearnerMsg::Drain { reply }).await.ok()
        };
        if tokio::time::timeout(GIVING_UP, abandoned).await.is_err() {
            tracing::warn!("the learner step under way did not end in time");
        }
    }

    /// Writes the checkpoint to go on from.
    async fn save(&self) -> Result<(), Failure> {
        let begun = Instant::now();
        let state = match self.tree.device() {
            Some(device) => tokio::time::timeout(SNAPSHOT, device.snapshot()).await.ok().and_then(Result::ok),
            None => None,
        };
        let Some(state) = self.or_recalled(state).await? else {
            tracing::warn!("the device is gone before the first checkpoint: there is nothing to go on from");
            return Ok(());
        };
        let (step, checkpoints) = (state.step, self.tree.context.checkpoints.clone());
        let mut run_state = self.tree.run_state.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // The step may have been taken and its learner felled before it could say so.
        run_state.learned(state.batch, state.step);
        tokio::task::spawn_blocking(move || checkpoints.save(state, run_state))
            .await
            .map_err(|error| Failure::panicked(error))??;
        self.tree.context.events.emit(Event::Saved { step, seconds: begun.elapsed().as_secs_f64() });
        Ok(())
    }

    /// The learner as it is; where the device is gone, as it was in the newest checkpoint.
    async fn or_recalled(&self, state: Option<learner::State>) -> Result<Option<learner::State>, Failure> {
        match state {
            Some(state) if !self.tree.run_state.is_poisoned() => Ok(Some(state)),
            _ => Ok(self.tree.recall().await?.map(|recalled| recalled.learner)),
        }
    }

    fn end(&self, exit: Exit, myself: &ActorRef<SupervisorMsg>) {
        self.tree.context.events.emit(Event::Turned(Activity::Ended));
        self.exit.send_replace(Some(exit));
        myself.stop(None);
    }
}

// With the default drain of four seconds, these keep the whole end under ten.

/// How long a step that is given up may take to notice.
const GIVING_UP: Duration = Duration::from_millis(1500);
/// How long the device may take to hand out the learner's state.
const SNAPSHOT: Duration = Duration::from_secs(3);
/// How long the device thread may take to end once all is saved.
const LETTING_GO: Duration = Duration::from_millis(500);

fn give_up(failure: &Failure) -> Exit {
    let exit = failure.exit();
    tracing::error!(error = %failure, code = exit as u8, "giving up");
    exit
}
