//! Why an actor fails. Its supervisor restarts it, within a budget.

use crate::device;
use crate::run::{checkpoints, critics, exit::Exit};
use ractor::SpawnErr;
use std::time::Duration;
use tokio::task::JoinError;

/// Why an actor fails.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The device could not be started, or rejected a valid request.
    #[error("device: {0}")]
    Device(#[from] device::Error),
    /// The device thread ended by itself.
    #[error("the device thread ended: {0}")]
    DeviceEnded(String),
    /// The device thread does not start, or does not end.
    #[error("the device thread did not start or end within {seconds} s")]
    DeviceStuck {
        /// How long it was waited for.
        seconds: u64,
    },
    /// The device thread stands still.
    #[error("the device thread has stood still for {seconds} s (device.stall_seconds)")]
    DeviceStalled {
        /// How long it has been at one step, micro-batch or command.
        seconds: u64,
    },
    /// The journal was not written in time.
    #[error("the journal was not written within {seconds} s: the disk fails, or is full")]
    JournalStuck {
        /// How long it was waited for.
        seconds: u64,
    },
    /// The disk does not answer.
    #[error("{what} took longer than {seconds} s: the disk does not answer")]
    DiskStuck {
        /// What it was asked for.
        what: &'static str,
        /// How long it was waited for.
        seconds: u64,
    },
    /// A checkpoint could not be written or read.
    #[error(transparent)]
    Checkpoint(#[from] checkpoints::Error),
    /// The registry of critics could not be written or read.
    #[error("registry of critics: {0}")]
    Critics(#[from] critics::Error),
    /// A background task panicked.
    #[error("{0}")]
    Panicked(String),
    /// An actor that this one depends on is gone, and the supervisor did not restart this one.
    #[error("{0} is gone and nothing restarted it")]
    DependencyLost(&'static str),
    /// Several learner steps in a row failed.
    #[error("{streak} learner steps in a row failed, the last with: {last}")]
    LearnerStreak {
        /// How many.
        streak: u32,
        /// What was wrong with the last one.
        last: String,
    },
    /// A role failed for a reason that will not go away.
    #[error("{role}: {why}")]
    Role {
        /// Which role.
        role: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The chat template, the tokenizer or the engine refused texts of most episodes.
    #[error("refused texts ended {refused} of the last {episodes} episodes, the last: {why}")]
    Refusals {
        /// Episodes that refused texts ended.
        refused: usize,
        /// Episodes counted.
        episodes: usize,
        /// Whose text was refused last, and why.
        why: String,
    },
    /// Every episode was dropped for longer than the run allows.
    #[error(
        "every episode of the last {seconds} s was dropped (supervisor.useless_seconds), {dropped} in all; the last trouble: {why}"
    )]
    Useless {
        /// For how long.
        seconds: u64,
        /// Episodes dropped.
        dropped: u64,
        /// Whose request failed last, and why.
        why: String,
    },
    /// An actor could not be started.
    #[error("starting {actor_kind}: {why}")]
    Spawn {
        /// Which actor.
        actor_kind: &'static str,
        /// What went wrong.
        why: String,
    },
    /// An actor was killed.
    #[error("{0} was killed")]
    Killed(&'static str),
}

impl Failure {
    /// The exit code of a run that cannot recover from it.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Device(_) | Self::DeviceEnded(_) | Self::DeviceStuck { .. } | Self::DeviceStalled { .. } => {
                Exit::Device
            }
            Self::Checkpoint(_) | Self::Critics(_) | Self::JournalStuck { .. } | Self::DiskStuck { .. } => {
                Exit::Checkpoint
            }
            Self::Useless { .. } => Exit::Useless,
            _ => Exit::Restarts,
        }
    }

    /// Whether the disk failed: what is to be written may be written later.
    pub(super) fn is_of_disk(&self) -> bool {
        match self {
            Self::Checkpoint(error) => error.is_of_disk(),
            Self::Critics(error) => error.is_of_disk(),
            Self::DiskStuck { .. } => true,
            _ => false,
        }
    }

    /// Whether a restart cannot help: the same would happen, or a second device thread would run beside one that hangs, or
    /// another thread would wait for the disk.
    pub(crate) fn is_lasting(&self) -> bool {
        match self {
            Self::Refusals { .. } | Self::Useless { .. } | Self::DeviceStuck { .. } | Self::DiskStuck { .. } => true,
            Self::DeviceEnded(why) | Self::LearnerStreak { last: why, .. } => device::has_lost_gpu(why),
            _ => false,
        }
    }

    /// The failure of an actor that ractor could not start: the actor's own, where it gave one.
    pub(crate) fn of_start(actor_kind: &'static str, error: SpawnErr) -> Self {
        let why = match error {
            SpawnErr::StartupFailed(error) => match error.downcast::<Self>() {
                Ok(failure) => return *failure,
                Err(error) => error.to_string(),
            },
            other => other.to_string(),
        };
        Self::Spawn { actor_kind, why }
    }

    /// The failure of an actor whose background task panicked.
    pub(crate) fn panicked(error: JoinError) -> Self {
        Self::Panicked(panic_text(error))
    }
}

/// Waits for the supervisor to stop this actor too, because `what`, which it depends on, is gone. Returns only if that
/// does not happen within `patience`.
pub(super) async fn dependency_lost(what: &'static str, patience: Duration) -> Failure {
    tokio::time::sleep(patience).await;
    Failure::DependencyLost(what)
}

/// The message of a task's panic.
pub(super) fn panic_text(error: JoinError) -> String {
    let Ok(payload) = error.try_into_panic() else { return "a task was cancelled".to_owned() };
    match payload.downcast::<String>() {
        Ok(text) => *text,
        Err(payload) => payload.downcast::<&str>().map_or_else(|_| "a task panicked".to_owned(), |t| (*t).to_owned()),
    }
}
