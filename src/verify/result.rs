//! What comes of a check.

use super::code::ProgramFailure;
use super::sandbox;

/// Maximum length of a checked text, in bytes.
pub const TEXT_BYTES_MAX: usize = 1 << 18;

/// Why a text could not be checked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// The prompt has no verifier and no answer, or an invalid one.
    #[error("{0}")]
    Prompt(String),
    /// The text is longer than [`TEXT_BYTES_MAX`].
    #[error("expected a text of at most {TEXT_BYTES_MAX} bytes, got {0}")]
    TooLong(usize),
    /// The sandbox failed, or there is none.
    #[error(transparent)]
    Sandbox(#[from] sandbox::Error),
    /// The user's program or server gave no score.
    #[error("{0}")]
    Own(String),
    /// A program passed its tests in one of two runs.
    #[error("two runs of the program differ: {0}, then {1}")]
    Unstable(String, String),
}

/// The result of a check.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckResult {
    /// The score in `[0, 1]`: 0 or 1; for instructions, the share that is followed.
    pub score: f32,
    /// Why a program failed.
    pub failure: Option<ProgramFailure>,
}
