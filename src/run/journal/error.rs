//! The error of the journal.

use std::path::PathBuf;

/// Why the journal cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {why}")]
pub struct Error {
    /// The journal's file.
    pub(super) path: PathBuf,
    /// What is wrong.
    pub(super) why: String,
}
