//! Why the device refuses or fails a command.

use crate::{engine, learner};

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The thread is gone: it was stopped or it panicked.
    #[error("the device thread is gone")]
    Gone,
    /// The node runs without a learner.
    #[error("this device has no learner")]
    NoLearner,
    /// The engine refused or failed.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// The learner refused or failed.
    #[error(transparent)]
    Learner(#[from] learner::Error),
    /// The model could not be laid out on the device.
    #[error(transparent)]
    Model(#[from] crate::transformer::Error),
    /// The thread could not be started.
    #[error("starting the device thread: {0}")]
    Spawn(#[from] std::io::Error),
}

impl Error {
    /// Whether as many critics are resident as the config allows.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Engine(engine::Error::VersionsFull { .. }))
    }
}
