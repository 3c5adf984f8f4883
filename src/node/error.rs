//! Why a node did not start, and the exit code for it.

use crate::actors::failure::Failure;
use crate::run::exit::Exit;
use crate::run::journal;
use crate::verify::sandbox;
use crate::{checkpoint, formats, groups, learner, prompts, records, remote, roles, tracking, transformer};
use std::path::PathBuf;

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The run directory has checkpoints, and a resume was not asked for.
    #[error("{0} holds a run: go on with --resume, or name another node.run_directory")]
    Occupied(PathBuf),
    /// There is nothing to resume from.
    #[error("{0} holds no whole checkpoint and no journal to resume from")]
    NothingToResume(PathBuf),
    /// The run to resume is made of something else.
    #[error("{path}: {differences}; change it back, or start a new run in another node.run_directory")]
    Changed {
        /// The file that says what the run is made of.
        path: PathBuf,
        /// What has changed, with the reasons why it must not.
        differences: String,
    },
    /// The judge is a verifier, and there is nothing to check some prompts by.
    #[error(
        "judge.kind = \"verifier\" cannot check answers to {count} of the {of} prompts of {file}, such as {id:?}: {complaint}; give them an answer or a verifier, or let a model judge (judge.kind = \"model\" or \"remote\")"
    )]
    Unchecked {
        /// The prompt file.
        file: String,
        /// How many.
        count: usize,
        /// Of how many.
        of: usize,
        /// The first of them.
        id: String,
        /// What is wrong with it.
        complaint: String,
    },
    /// Some prompts leave no room for an answer, and `prompts.too_long` refuses them.
    #[error(
        "prompts.too_long = \"refuse\": {count} of the {of} prompts of {file} are longer than {room} tokens (engine.context_tokens_max less generator.sampling.max_tokens), such as {id:?}"
    )]
    TooLong {
        /// The prompt file.
        file: String,
        /// How many.
        count: usize,
        /// Of how many.
        of: usize,
        /// The first of them.
        id: String,
        /// The longest that fits, in tokens.
        room: usize,
    },
    /// The memory plan does not fit.
    #[error("{0}")]
    Memory(String),
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
    #[error("{section}: {error}")]
    Remote {
        /// The section of the config.
        section: &'static str,
        /// Why not.
        error: remote::Error,
    },
    /// A model cannot be fetched.
    #[error("{key}: {error}")]
    Source {
        /// The key of the config.
        key: &'static str,
        /// Why not.
        error: formats::Error,
    },
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
    /// The learner cannot start from the weights that the config names.
    #[error(transparent)]
    Start(#[from] learner::Error),
    /// A checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    /// The journal cannot be read.
    #[error(transparent)]
    Journal(#[from] journal::Error),
    /// The journal does not reach back to the newest whole checkpoint.
    #[error("{}: record {missing} is missing after the newest whole checkpoint", run.join(journal::FILE).display())]
    JournalGap {
        /// The run directory.
        run: PathBuf,
        /// The first record that is missing.
        missing: u64,
    },
    /// The run's groups cannot be recorded.
    #[error(transparent)]
    Groups(#[from] groups::Error),
    /// The run's figures cannot be written.
    #[error(transparent)]
    Tracking(#[from] tracking::Error),
    /// The run's episodes cannot be recorded.
    #[error(transparent)]
    Records(#[from] records::Error),
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
            Self::Model(
                transformer::Error::Device { .. }
                | transformer::Error::CpuOnly { .. }
                | transformer::Error::KvPrecision { .. },
            ) => Exit::Usage,
            Self::Model(_) | Self::Source { .. } => Exit::Model,
            Self::Checkpoint(_) | Self::Journal(_) | Self::JournalGap { .. } => Exit::Checkpoint,
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
