//! The error of `records`.

use super::record::FILE;
use crate::types::brief::brief;
use std::path::{Path, PathBuf};

/// Why records could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// A file cannot be a file of records.
    #[error("{path}: {}", brief(.why))]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The directory is not that of a run, or the run keeps no records.
    #[error("{0} holds no {FILE}: expected the directory of a run that keeps its episodes (episodes.file_mib)")]
    NoRun(PathBuf),
    /// A text to search for is too long.
    #[error("expected a text of at most {max} bytes to search for, got {got}")]
    Text {
        /// The limit.
        max: usize,
        /// Its length.
        got: usize,
    },
}

/// Result of this room.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An I/O error that names its file.
    pub(super) fn io(path: &Path) -> impl Fn(std::io::Error) -> Self + use<'_> {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}
