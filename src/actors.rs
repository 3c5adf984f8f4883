//! The runtime: thin ractor shells around the rooms, and the tree that keeps them up.
//!
//! Whoever wants the algorithm reads `actors/rollout.rs` (an episode) and `actors/learner.rs` (the
//! learner's course); whoever wants the runtime reads `actors/supervisor.rs`; nobody must read both.
//!
//! Invariants: goods move by [`ask`] alone, so every message that matters has a deadline and an answer;
//! nothing is named in ractor's registry (several nodes may live in one process); whatever a shell does
//! in the background lives in its state and dies with it.

pub mod device;
pub mod judge;
pub mod learner;
pub mod replay;
pub mod role;
pub mod rollout;
pub mod run_context;
pub mod supervisor;
pub mod task;
mod tree;

use ractor::ActorRef;
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// Where an answer goes. `is_closed` and `closed` tell that the asker left.
pub type Reply<T> = oneshot::Sender<T>;

/// Why an [`ask`] was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// Not in time.
    #[error("no answer before the deadline")]
    Deadline,
    /// The actor is gone, or dropped the question.
    #[error("the actor is gone")]
    Gone,
}

/// Sends `message` to `actor` and waits for the answer, at most until `deadline`.
///
/// # Errors
/// Where no answer came in time, or the actor is gone.
pub async fn ask<M, T>(
    actor: &ActorRef<M>,
    deadline: Duration,
    message: impl FnOnce(Reply<T>) -> M,
) -> Result<T, Unanswered>
where
    M: ractor::Message,
{
    let (reply, answer) = oneshot::channel();
    actor.send_message(message(reply)).map_err(|_| Unanswered::Gone)?;
    match tokio::time::timeout(deadline, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => Err(Unanswered::Gone),
        Err(_) => Err(Unanswered::Deadline),
    }
}

/// The wish to stop: raised once, seen by all who hold a clone.
#[derive(Clone, Debug)]
pub struct Stop(watch::Sender<bool>);

impl Default for Stop {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Stop {
    /// Raises it.
    pub fn request(&self) {
        self.0.send_replace(true);
    }

    /// Whether it is raised.
    pub fn is_requested(&self) -> bool {
        *self.0.borrow()
    }

    /// Resolves once it is raised.
    pub async fn requested(&self) {
        // The sender is `self.0`: the channel outlives this wait, so it cannot fail.
        let _ = self.0.subscribe().wait_for(|raised| *raised).await;
    }
}

/// What makes a station fail: its supervisor restarts it, within a budget.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The device could not be started, or refused what it must not refuse.
    #[error("device: {0}")]
    Device(#[from] crate::device::Error),
    /// The device thread ended by itself.
    #[error("the device thread ended: {0}")]
    DeviceEnded(String),
    /// The device thread does not end.
    #[error("the device thread did not end within {seconds} s")]
    DeviceStuck {
        /// How long it was waited for.
        seconds: u64,
    },
    /// A checkpoint could not be written or read.
    #[error("checkpoint: {0}")]
    Checkpoint(#[from] crate::checkpoint::Error),
    /// What is in a checkpoint is not what this program writes.
    #[error("checkpoint state: {0}")]
    State(#[from] serde_json::Error),
    /// Something in the background panicked.
    #[error("{0}")]
    Panicked(String),
    /// One that this one stands on is gone, and nobody took this one down with it.
    #[error("{0} is gone and nothing restarted it")]
    DependencyLost(&'static str),
    /// Several learner steps in a row could not be taken.
    #[error("{streak} learner steps in a row failed, the last one so: {last}")]
    LearnerStreak {
        /// How many.
        streak: u32,
        /// What was wrong with the last one.
        last: String,
    },
    /// A role could not do what it was asked, for a reason that will not go away.
    #[error("{role}: {why}")]
    Role {
        /// Which role.
        role: &'static str,
        /// What is wrong.
        why: String,
    },
    /// ractor could not spawn an actor.
    #[error("spawning {actor_kind}: {why}")]
    Spawn {
        /// Which station.
        actor_kind: &'static str,
        /// What ractor said.
        why: String,
    },
    /// An actor was killed.
    #[error("{0} was killed")]
    Killed(&'static str),
}

/// How the process ends: its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It did what it was asked; of a run, a whole checkpoint is on disk.
    Done = 0,
    /// It failed in a way that has no code of its own.
    Failed = 1,
    /// The command line, the config or an input file is wrong.
    Usage = 2,
    /// The model could not be fetched or loaded.
    Model = 3,
    /// Actors failed more often than `supervisor.restarts_max` allows.
    Restarts = 4,
    /// The device could not be brought up again.
    Device = 5,
    /// A checkpoint could not be written or read.
    Checkpoint = 6,
}

impl Failure {
    /// How the run ends if this cannot be helped.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Device(_) | Self::DeviceEnded(_) | Self::DeviceStuck { .. } => Exit::Device,
            Self::Checkpoint(_) | Self::State(_) => Exit::Checkpoint,
            _ => Exit::Restarts,
        }
    }
}

/// Waits to be taken down, because `what` is gone and the supervisor restarts all that stand on it.
/// Returns only if that does not come to pass.
async fn dependency_lost(what: &'static str, patience: Duration) -> Failure {
    tokio::time::sleep(patience).await;
    Failure::DependencyLost(what)
}
