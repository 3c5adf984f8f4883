//! Why a registry of critics fails.

use crate::checkpoint;
use crate::disk::json_lines;
use crate::types::CriticVersion;
use std::path::{Path, PathBuf};

/// Why a registry could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk failed.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file of records is not what this program writes.
    #[error("{path}, line {line}: {why}")]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// The weights could not be written or read.
    #[error(transparent)]
    Weights(#[from] checkpoint::Error),
    /// No critic has this number.
    #[error("critic {version}: expected a version that `rco-node critics` lists")]
    Unknown {
        /// The number.
        version: CriticVersion,
    },
    /// Its weights were removed to make room.
    #[error("critic {version}: its weights are no longer kept (swap.versions_kept)")]
    Forgotten {
        /// The number.
        version: CriticVersion,
    },
}

impl Error {
    /// An I/O error that names its file.
    pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<'_> {
        move |source| Self::Io { path: path.to_owned(), source }
    }

    pub(super) fn of_lines(path: &Path, error: json_lines::Error) -> Self {
        let path = path.to_owned();
        match error {
            json_lines::Error::Io(source) => Self::Io { path, source },
            json_lines::Error::Line { line, why } => Self::Line { path, line, why },
        }
    }

    /// Whether the disk failed: what is to be written may be written later.
    pub fn is_of_disk(&self) -> bool {
        matches!(self, Self::Io { .. } | Self::Weights(checkpoint::Error::Io { .. }))
    }
}
