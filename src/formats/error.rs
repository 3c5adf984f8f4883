//! The error of `formats`: each variant names the file, the tensor or the value at fault.

use crate::types::brief::brief;
use std::path::{Path, PathBuf};

/// Why a model or an adapter could not be fetched or read.
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
    /// The model source is not in one of the known forms.
    #[error(
        "model source {given:?}: expected a path, hf:owner/name or pip:package==version#file?sha256=digest ({why})"
    )]
    Source {
        /// What was given.
        given: String,
        /// What is wrong with it.
        why: String,
    },
    /// The model could not be fetched.
    #[error("fetching {what}: {why}")]
    Fetch {
        /// The source.
        what: String,
        /// What went wrong.
        why: String,
    },
    /// A fetched or cached file has another digest than its source names.
    #[error("{path}: expected sha256 {expected}, got {got}")]
    Digest {
        /// The file.
        path: PathBuf,
        /// The expected digest.
        expected: String,
        /// The digest of the file.
        got: String,
    },
    /// The file has no such tensor.
    #[error("{path}: tensor {} is missing", brief(.name))]
    MissingTensor {
        /// The file or folder.
        path: PathBuf,
        /// The tensor's name in that file.
        name: String,
    },
    /// A tensor's shape does not match the config.
    #[error("{path}: tensor {}: expected shape {expected:?}, got {got:?}", brief(.name))]
    Shape {
        /// The file or folder.
        path: PathBuf,
        /// The tensor's name in that file.
        name: String,
        /// The shape that the config implies.
        expected: Vec<usize>,
        /// The shape in the file.
        got: Vec<usize>,
    },
    /// The architecture, tokenizer or format is not supported.
    #[error("{path}: {what} {:?} is not supported, expected one of {expected}", brief(.got))]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The kind of thing: `architecture`, `pre-tokenizer`, ...
        what: &'static str,
        /// The value in the file.
        got: String,
        /// The supported values.
        expected: String,
    },
    /// The file is valid, but holds what this node does not compute.
    #[error("{path}: {}; {remedy}", brief(.what))]
    Refused {
        /// The file.
        path: PathBuf,
        /// What it holds.
        what: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// The file is malformed or contradicts itself.
    #[error("{path}: {}", brief(.why))]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The tokenizer failed.
    #[error("tokenizer: {}", brief(.0))]
    Tokenizer(String),
    /// The chat template failed.
    #[error("chat template: {}", brief(.0))]
    Template(String),
    /// The tensor library failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// Result of this room.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An I/O error that names its file.
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<'_> {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}
