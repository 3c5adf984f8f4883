//! Counts and times every request, by groups of routes and codes.

use crate::telemetry::metrics::{HTTP_REQUESTS, HTTP_SECONDS, HttpCode, HttpRoute};
use axum::extract::{MatchedPath, Request};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;
use std::time::Instant;

/// Counts and times a request. A stream's time ends where its answer begins.
pub(super) async fn measure(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or(HttpRoute::Other, |path| route(path.as_str()));
    let started = Instant::now();
    let response = next.run(request).await;
    HTTP_SECONDS.record(route, started.elapsed().as_secs_f64());
    HTTP_REQUESTS.add((route, code(response.status())), 1);
    response
}

fn route(path: &str) -> HttpRoute {
    match path {
        "/metrics" => HttpRoute::Metrics,
        "/healthz" | "/health" | "/readyz" => HttpRoute::Health,
        "/v1/chat/completions" => HttpRoute::Chat,
        "/v1/completions" => HttpRoute::Completions,
        "/v1/critique" => HttpRoute::Critique,
        "/tokenize" | "/detokenize" => HttpRoute::Models,
        "/events" | "/annotations" => HttpRoute::Events,
        "/v1/load_lora_adapter" | "/v1/unload_lora_adapter" => HttpRoute::Admin,
        path if path.starts_with("/v1/models") => HttpRoute::Models,
        "/" | "/page.css" | "/page.js" => HttpRoute::Page,
        path if path.starts_with("/episodes") => HttpRoute::Episodes,
        path if path.starts_with("/admin/") => HttpRoute::Admin,
        _ => HttpRoute::Other,
    }
}

fn code(status: StatusCode) -> HttpCode {
    match status {
        StatusCode::TOO_MANY_REQUESTS => HttpCode::Busy,
        status if status.is_server_error() => HttpCode::ServerError,
        status if status.is_client_error() => HttpCode::ClientError,
        _ => HttpCode::Success,
    }
}
