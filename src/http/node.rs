//! The node behind the routes, what they ask of it in common, and how its errors read.

use crate::actors::control::{Control, ControlError};
use crate::actors::swap::SwapError;
use crate::http::problem::Problem;
use crate::run::critics::Error as RegistryError;
use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use tokio::sync::watch;

/// Where the routes find the node, once it has started.
pub type Node = watch::Receiver<Option<Control>>;

/// Who asks, in the registry and in events.
pub(super) const BY: &str = "http";

/// The node, or a problem while it starts.
pub(super) fn started(node: &Node) -> Result<Control, Problem> {
    let starting = || Problem::new(StatusCode::SERVICE_UNAVAILABLE, "starting", "the node has not started yet");
    node.borrow().clone().ok_or_else(starting)
}

impl From<ControlError> for Problem {
    fn from(error: ControlError) -> Self {
        let (status, code) = match &error {
            ControlError::Unanswered => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            ControlError::Setting(_) => (StatusCode::BAD_REQUEST, "invalid_value"),
            ControlError::Checkpoint(_) => (StatusCode::INTERNAL_SERVER_ERROR, "checkpoint_failed"),
            ControlError::Swap(SwapError::Busy(_)) => (StatusCode::CONFLICT, "busy"),
            ControlError::Swap(SwapError::Pinned(_)) => (StatusCode::CONFLICT, "pinned"),
            ControlError::Swap(SwapError::Refused(_)) => (StatusCode::BAD_REQUEST, "refused"),
            ControlError::Swap(SwapError::Rejected { .. }) => (StatusCode::UNPROCESSABLE_ENTITY, "rejected"),
            ControlError::Swap(SwapError::NoParent(_)) => (StatusCode::CONFLICT, "no_parent"),
            ControlError::Swap(SwapError::Registry(
                RegistryError::Unknown { .. } | RegistryError::Forgotten { .. },
            )) => (StatusCode::NOT_FOUND, "unknown_version"),
            ControlError::Swap(SwapError::Registry(_)) => (StatusCode::INTERNAL_SERVER_ERROR, "registry_failed"),
        };
        Self::new(status, code, &error.to_string())
    }
}

/// A body, or why it is not one.
pub(super) fn body<T>(given: Result<Json<T>, JsonRejection>) -> Result<T, Problem> {
    given.map(|Json(body)| body).map_err(|rejection| Problem::bad_request("invalid_body", &rejection.body_text()))
}

/// Runs `change` to its end, whether the client waits or not.
pub(super) async fn to_its_end<T: Send + 'static, E: Into<Problem> + Send + 'static>(
    change: impl Future<Output = Result<T, E>> + Send + 'static,
) -> Result<T, Problem> {
    let panicked = |_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "panicked", "the request panicked");
    tokio::spawn(change).await.map_err(panicked)?.map_err(Into::into)
}
