//! The supervisor: restarts what fails and all that stands on it, within a budget; ends the run in order.
//!
//! The order of stations is the order of dependence. A failed station and everything after it are
//! felled and raised again with new references (rest-for-one), after a pause that doubles. More
//! failures than the budget end the node with an exit code of their own.

use super::learner::LearnerMsg;
use super::rollout::RolloutMsg;
use super::run_context::RunContext;
use super::task::panic_text;
use super::tree::Tree;
use super::{Exit, Failure, Reply, ask};
use crate::learner;
use crate::run::events::{Activity, Event};
use crate::run::state::RunState;
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How often a node may be restarted, and how fast.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SupervisorConfig {
    /// More restarts than this within the window end the process.
    pub restarts_max: usize,
    /// The window, in seconds.
    pub window_seconds: u64,
    /// The pause before the first restart of a window; it doubles with each.
    pub backoff_milliseconds: u64,
    /// The longest pause.
    pub backoff_max_milliseconds: u64,
}

impl SupervisorConfig {
    /// What is wrong with it.
    pub fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        if self.window_seconds == 0 {
            complaints.push("supervisor.window_seconds: expected at least 1, got 0".to_owned());
        }
        if self.backoff_max_milliseconds < self.backoff_milliseconds {
            complaints.push(format!(
                "supervisor.backoff_max_milliseconds: expected at least backoff_milliseconds ({}), got {}",
                self.backoff_milliseconds, self.backoff_max_milliseconds
            ));
        }
        complaints
    }
}

/// The stations in the order of dependence: each stands on those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ActorKind {
    /// Owns the device thread.
    Device,
    /// Keeps groups.
    Replay,
    /// Answers.
    Generator,
    /// Criticises.
    Critic,
    /// Refines.
    Refiner,
    /// Compares.
    Judge,
    /// Learns.
    Learner,
    /// Runs episodes.
    Rollout,
}

impl ActorKind {
    /// All of them, in order.
    pub const ALL: [Self; 8] = [
        Self::Device,
        Self::Replay,
        Self::Generator,
        Self::Critic,
        Self::Refiner,
        Self::Judge,
        Self::Learner,
        Self::Rollout,
    ];

    /// Its name in a message.
    pub fn name(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Replay => "replay",
            Self::Generator => "generator",
            Self::Critic => "critic",
            Self::Refiner => "refiner",
            Self::Judge => "judge",
            Self::Learner => "learner",
            Self::Rollout => "rollout",
        }
    }
}

/// Counts restarts within the window.
#[derive(Debug)]
struct Budget {
    config: SupervisorConfig,
    spent: VecDeque<Instant>,
}

impl Budget {
    fn new(config: SupervisorConfig) -> Self {
        Self { config, spent: VecDeque::new() }
    }

    /// One restart more at `now`: the pause before it, or none where the budget is used up.
    fn spend(&mut self, now: Instant) -> Option<Duration> {
        let window = Duration::from_secs(self.config.window_seconds);
        while self.spent.front().is_some_and(|then| now.duration_since(*then) > window) {
            self.spent.pop_front();
        }
        if self.spent.len() >= self.config.restarts_max {
            return None;
        }
        let doublings = u32::try_from(self.spent.len()).unwrap_or(u32::MAX);
        let pause = self.config.backoff_milliseconds.saturating_mul(2u64.saturating_pow(doublings));
        self.spent.push_back(now);
        Some(Duration::from_millis(pause.min(self.config.backoff_max_milliseconds)))
    }
}

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
            None => Failure::Killed(actor_kind.name()),
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
            tracing::warn!(actor_kind = from.name(), error = %failure, "a station failed");
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
            .map_err(|error| Failure::Panicked(panic_text(error)))??;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> SupervisorConfig {
        SupervisorConfig {
            restarts_max: 4,
            window_seconds: 60,
            backoff_milliseconds: 100,
            backoff_max_milliseconds: 300,
        }
    }

    #[test]
    fn the_pause_doubles_up_to_its_limit_and_then_the_budget_is_used_up() {
        let (mut budget, now) = (Budget::new(config()), Instant::now());
        let pauses: Vec<_> = (0..5).map(|_| budget.spend(now).map(|pause| pause.as_millis())).collect();
        assert_eq!(pauses, [Some(100), Some(200), Some(300), Some(300), None]);
    }

    #[test]
    fn restarts_older_than_the_window_are_forgotten() {
        let (mut budget, now) = (Budget::new(config()), Instant::now());
        for _ in 0..4 {
            assert!(budget.spend(now).is_some());
        }
        let later = now + Duration::from_secs(61);
        assert_eq!(budget.spend(later), Some(Duration::from_millis(100)));
    }

    #[test]
    fn stations_stand_in_the_order_of_dependence() {
        assert!(ActorKind::ALL.is_sorted());
        assert_eq!((ActorKind::ALL[0], ActorKind::ALL[7]), (ActorKind::Device, ActorKind::Rollout));
    }
}
