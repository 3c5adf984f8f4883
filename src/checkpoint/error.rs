//! The error of `checkpoint`.

use crate::types::brief::brief;
use std::path::{Path, PathBuf};

/// Why a checkpoint could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder could not be read, written, synced or renamed.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// The checkpoint is damaged or incomplete.
    #[error("checkpoint {path} is not whole: {}", brief(.why))]
    Corrupt {
        /// Its folder.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The checkpoint is whole, but this node cannot resume from it.
    #[error("checkpoint {path} does not fit this node: {}", brief(.why))]
    Incompatible {
        /// Its folder.
        path: PathBuf,
        /// What does not fit.
        why: String,
    },
    /// The snapshot is inconsistent.
    #[error("snapshot of step {step}: {why}")]
    Snapshot {
        /// Its step.
        step: u64,
        /// What is wrong.
        why: String,
    },
}

/// Result of this room.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An I/O error that names its file.
    pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<'_> {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}
