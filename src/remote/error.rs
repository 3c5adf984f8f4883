//! Why a remote server gave no answer.

use crate::telemetry::metrics::RemoteOutcome;
use crate::types::brief::brief;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The config has no valid address.
    #[error("remote: expected an address, got {0:?}")]
    Address(String),
    /// The environment variable has no usable key.
    #[error("remote: expected a key in the environment variable {0}, got none that can be sent")]
    Key(String),
    /// The key would be sent over plain HTTP to another machine, and `key_over_http` is false.
    #[error("remote: expected https or key_over_http = true where a key is sent to another machine")]
    KeyOverHttp,
    /// No answer in time.
    #[error("no answer within {seconds} s")]
    Timeout {
        /// Time-out of one attempt, in seconds.
        seconds: u64,
    },
    /// No connection, or it broke before the answer was complete.
    #[error("connection: {0}")]
    Unreachable(String),
    /// The server is overloaded (429).
    #[error("the server is busy (429)")]
    Busy,
    /// The server failed (5xx).
    #[error("the server failed ({0})")]
    ServerError(u16),
    /// The server refused the request (another status).
    #[error("the server refused ({status}): {why}")]
    Refused {
        /// The status.
        status: u16,
        /// The beginning of its response body.
        why: String,
    },
    /// The answer cannot be read.
    #[error("the answer cannot be read: {}", brief(.0))]
    Unreadable(String),
}

impl Error {
    /// Whether a retry may succeed.
    pub(super) fn is_retryable(&self) -> bool {
        !matches!(self, Self::Refused { .. } | Self::Address(_) | Self::Key(_) | Self::KeyOverHttp)
    }

    pub(super) fn outcome(&self) -> RemoteOutcome {
        match self {
            Self::Timeout { .. } => RemoteOutcome::Timeout,
            Self::Unreachable(_) => RemoteOutcome::Unreachable,
            Self::Busy => RemoteOutcome::Busy,
            Self::ServerError(_) => RemoteOutcome::ServerError,
            Self::Refused { .. } | Self::Address(_) | Self::Key(_) | Self::KeyOverHttp => RemoteOutcome::Refused,
            Self::Unreadable(_) => RemoteOutcome::Unreadable,
        }
    }
}
