//! The error of `groups`.

use super::record::FILE;
use crate::types::brief::brief;
use crate::types::{EpisodeId, ModelId};
use std::path::{Path, PathBuf};

/// Why groups could not be read or written.
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
    /// The output path exists.
    #[error("{0} is there already: expected a free name")]
    Taken(PathBuf),
    /// A line is not a group.
    #[error("{path}, line {line}: {}", brief(.why))]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// The file is malformed or contradicts itself.
    #[error("{path}: {}", brief(.why))]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The extension names no known format.
    #[error("{0}: expected a name that ends with .jsonl or .safetensors")]
    Format(PathBuf),
    /// The extension names no format of rows.
    #[error("{0}: expected a name that ends with .jsonl or .parquet")]
    RowFormat(PathBuf),
    /// The prompt of a group cannot be written.
    #[error("the prompt of episode {episode}: {}", brief(.why))]
    Prompt {
        /// The group's episode.
        episode: EpisodeId,
        /// What is wrong.
        why: String,
    },
    /// The directory is not that of a run, or the run did not keep its groups.
    #[error("{0} holds no {FILE}: expected the directory of a run that keeps its groups")]
    NoRun(PathBuf),
    /// Groups of several models cannot share a file of flat arrays.
    #[error("{path}: expected groups of one model, got some of {one} and some of {other}")]
    TwoModels {
        /// The file.
        path: PathBuf,
        /// The model of the first group.
        one: ModelId,
        /// The model of a later group.
        other: ModelId,
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
