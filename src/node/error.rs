//! Why a node did not start, and the exit code for it.

use crate::actors::failure::Failure;
use crate::run::exit::Exit;
use crate::verify::sandbox;
use crate::{checkpoint, formats, groups, prompts, remote, roles, transformer};
use std::path::PathBuf;

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The run directory has checkpoints, and a resume was not asked for.
    #[error("{0} holds the checkpoints of a run: go on with --resume, or name another node.run_directory")]
    Occupied(PathBuf),
    /// There is nothing to resume from.
    #[error("{0} holds no whole checkpoint to resume from")]
    NothingToResume(PathBuf),
    /// Another node uses it.
    #[error("{0} is in use by another node")]
    Locked(PathBuf),
    /// The run directory cannot be used.
    #[error("{path}: {source}")]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A role cannot be made from its config.
    #[error(transparent)]
    Role(#[from] roles::Error),
    /// A remote server cannot be used.
    #[error(transparent)]
    Remote(#[from] remote::Error),
    /// The prompts cannot be read.
    #[error(transparent)]
    Prompts(#[from] prompts::Error),
    /// Prompts need code to be run, which is not possible here.
    #[error(transparent)]
    Sandbox(#[from] sandbox::Error),
    /// The config cannot be written.
    #[error("config: {0}")]
    Config(String),
    /// The model cannot be fetched or loaded.
    #[error(transparent)]
    Model(#[from] transformer::Error),
    /// A checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    /// The run's groups cannot be recorded.
    #[error(transparent)]
    Groups(#[from] groups::Error),
    /// The actors could not be started.
    #[error("{why}")]
    Actors {
        /// What went wrong.
        why: String,
        /// The exit code.
        exit: Exit,
    },
}

impl Error {
    /// The exit code of a process that fails with it.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Model(transformer::Error::Device { .. } | transformer::Error::CpuOnly { .. }) => Exit::Usage,
            Self::Model(_) => Exit::Model,
            Self::Checkpoint(_) => Exit::Checkpoint,
            Self::Actors { exit, .. } => *exit,
            _ => Exit::Usage,
        }
    }
}

impl From<formats::Error> for Error {
    fn from(error: formats::Error) -> Self {
        Self::Model(error.into())
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::Actors { why: failure.to_string(), exit: failure.exit() }
    }
}
