//! Metrics, health and readiness. Read-only.
//!
//! `/healthz` answers 200 while the process serves and its device thread works; `/readyz` answers 503 with what the node
//! waits for until it is ready. Either has what rollout yields in the lines after the first.

use crate::telemetry::Telemetry;
use axum::extract::State;
use axum::http::{StatusCode, header};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The routes of metrics, health and readiness.
pub(super) fn routes(telemetry: Telemetry) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(metrics))
        .routes(routes!(healthz))
        .routes(routes!(health))
        .routes(routes!(readyz))
        .with_state(telemetry)
}

/// Every metric, in Prometheus' text format.
#[utoipa::path(get, path = "/metrics", tag = "operation", responses((status = 200, body = String)))]
async fn metrics(State(telemetry): State<Telemetry>) -> ([(header::HeaderName, &'static str); 1], String) {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], telemetry.render())
}

/// 200 while the device thread works or waits for work; else 503 and how long it has stood still.
#[utoipa::path(get, path = "/healthz", tag = "operation", responses(
    (status = 200, body = String), (status = 503, body = String)
))]
async fn healthz(State(telemetry): State<Telemetry>) -> (StatusCode, String) {
    match telemetry.stalled() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(still) => {
            let text = format!("the device thread has stood still for {} s\n", still.as_secs());
            (StatusCode::SERVICE_UNAVAILABLE, text)
        }
    }
}

/// As `/readyz`, under the name that clients of vLLM ask for: 200 means that texts can be asked for.
#[utoipa::path(get, path = "/health", tag = "operation", responses(
    (status = 200, body = String), (status = 503, body = String)
))]
async fn health(state: State<Telemetry>) -> (StatusCode, String) {
    readyz(state).await
}

/// 200 once the node is ready; before that 503 and what it waits for.
#[utoipa::path(get, path = "/readyz", tag = "operation", responses(
    (status = 200, body = String), (status = 503, body = String)
))]
async fn readyz(State(telemetry): State<Telemetry>) -> (StatusCode, String) {
    let detail = telemetry.detail();
    match telemetry.waiting() {
        None => (StatusCode::OK, format!("ready\n{detail}")),
        Some(what) => (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {what}\n{detail}")),
    }
}
