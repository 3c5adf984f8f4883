//! Why a request for texts gave no result: trouble of one text, or of all that follow.

use crate::{device, engine, formats};

/// Why a request gave no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SampleError {
    /// The deadline passed.
    #[error("deadline passed")]
    Deadline,
    /// The prompt does not fit into the context.
    #[error("prompt too long")]
    TooLong,
    /// The device or an actor is gone.
    #[error("gone")]
    Gone,
    /// The chat template, the tokenizer or the engine refuses this text; others may pass.
    #[error("{0}")]
    Refused(String),
    /// A remote server gave no response.
    #[error("remote server: {0}")]
    Remote(String),
    /// A permanent error.
    #[error("{0}")]
    Broken(String),
}

impl From<formats::Error> for SampleError {
    fn from(error: formats::Error) -> Self {
        Self::Refused(error.to_string())
    }
}

impl From<device::Error> for SampleError {
    fn from(error: device::Error) -> Self {
        match error {
            device::Error::Gone => Self::Gone,
            device::Error::Engine(engine::Error::PromptLength { .. }) => Self::TooLong,
            device::Error::Engine(
                error @ (engine::Error::Logits { .. } | engine::Error::Text { .. } | engine::Error::TokenId { .. }),
            ) => Self::Refused(error.to_string()),
            other => Self::Broken(other.to_string()),
        }
    }
}
