//! What changes the node: swaps, pins, pauses, settings, a checkpoint, the end.

use crate::actors::control::{ControlError, Part};
use crate::actors::swap::{Checks, Offer, SwapOutcome};
use crate::actors::tuning::Tuning;
use crate::http::node::{BY, Node, body, started, to_its_end};
use crate::http::problem::{ErrorBody, Problem};
use crate::types::CriticVersion;
use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::PathBuf;
use utoipa::ToSchema;

/// What is offered and what it passes.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SwapRequest {
    /// A folder: a PEFT adapter, a checkpoint, or a published critic. Either this or a version.
    #[schema(value_type = Option<String>)]
    path: Option<PathBuf>,
    /// A version that is kept.
    #[schema(value_type = Option<u64>)]
    version: Option<CriticVersion>,
    /// Whether it passes the canary; yes if absent.
    canary: Option<bool>,
    /// The share of the episodes it is tried on; `swap.canary_share` if absent.
    share: Option<f64>,
    /// Who asks, for the registry; `http` if absent.
    by: Option<String>,
}

/// Puts a critic into service, after its gate, canary and trial. Answers once it is in service, on trial, or refused.
#[utoipa::path(post, path = "/admin/swap", tag = "operation", security(("token" = [])), request_body = SwapRequest, responses((status = 200, body = serde_json::Value), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody), (status = 422, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn swap(
    State(node): State<Node>,
    given: Result<Json<SwapRequest>, JsonRejection>,
) -> Result<Json<SwapOutcome>, Problem> {
    let (control, request) = (started(&node)?, body(given)?);
    let offer = match (request.path, request.version) {
        (Some(path), None) => Offer::Folder(path),
        (None, Some(version)) => Offer::Version(version),
        _ => return Err(Problem::bad_request("invalid_body", "expected either \"path\" or \"version\"")),
    };
    let checks = control.checks();
    let share = request.share.unwrap_or(checks.share);
    if !(0.0..1.0).contains(&share) {
        let why = format!("share: expected at least 0 and below 1, got {share}");
        return Err(Problem::bad_request("invalid_body", &why));
    }
    let checks = Checks { canary: request.canary.unwrap_or(checks.canary), share };
    let by = request.by.unwrap_or_else(|| BY.to_owned());
    to_its_end(async move { control.swap(offer, checks, &by).await }).await.map(Json)
}

/// A version, or none.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct VersionRequest {
    /// Which; see the route for what none means.
    #[schema(value_type = Option<u64>)]
    version: Option<CriticVersion>,
    /// Who asks, for the registry; `http` if absent.
    by: Option<String>,
}

/// Goes back to a version; without one, to the parent of the critic in service.
#[utoipa::path(post, path = "/admin/rollback", tag = "operation", security(("token" = [])), request_body = VersionRequest, responses((status = 200, body = serde_json::Value), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn rollback(
    State(node): State<Node>,
    given: Result<Json<VersionRequest>, JsonRejection>,
) -> Result<Json<SwapOutcome>, Problem> {
    let (control, VersionRequest { version, by }) = (started(&node)?, body(given)?);
    let by = by.unwrap_or_else(|| BY.to_owned());
    to_its_end(async move { control.rollback(version, &by).await }).await.map(Json)
}

/// Keeps a version in service whatever the learner publishes; without one, the critic in service.
#[utoipa::path(post, path = "/admin/pin", tag = "operation", security(("token" = [])), request_body = VersionRequest, responses((status = 200, body = serde_json::Value), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn pin(
    State(node): State<Node>,
    given: Result<Json<VersionRequest>, JsonRejection>,
) -> Result<Json<SwapOutcome>, Problem> {
    let (control, VersionRequest { version, by }) = (started(&node)?, body(given)?);
    let by = by.unwrap_or_else(|| BY.to_owned());
    let version = version.unwrap_or_else(|| control.critics().serving());
    to_its_end(async move { control.pin(Some(version), &by).await }).await.map(Json)
}

/// Lets the learner's publications serve again.
#[utoipa::path(post, path = "/admin/unpin", tag = "operation", security(("token" = [])), responses((status = 200, body = serde_json::Value), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn unpin(State(node): State<Node>) -> Result<Json<SwapOutcome>, Problem> {
    let control = started(&node)?;
    to_its_end(async move { control.pin(None, BY).await }).await.map(Json)
}

/// What is paused or resumed.
#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum What {
    /// No episode begins.
    Rollout,
    /// No batch is learned.
    Learner,
    /// Both.
    All,
}

/// A part of the node.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PauseRequest {
    what: What,
}

/// Pauses a part; what is under way ends.
#[utoipa::path(post, path = "/admin/pause", tag = "operation", security(("token" = [])), request_body = PauseRequest, responses((status = 200, body = serde_json::Value), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn pause(
    State(node): State<Node>,
    given: Result<Json<PauseRequest>, JsonRejection>,
) -> Result<Json<Value>, Problem> {
    set_paused(&node, body(given)?.what, true)
}

/// Resumes a part.
#[utoipa::path(post, path = "/admin/resume", tag = "operation", security(("token" = [])), request_body = PauseRequest, responses((status = 200, body = serde_json::Value), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn resume(
    State(node): State<Node>,
    given: Result<Json<PauseRequest>, JsonRejection>,
) -> Result<Json<Value>, Problem> {
    set_paused(&node, body(given)?.what, false)
}

fn set_paused(node: &Node, what: What, paused: bool) -> Result<Json<Value>, Problem> {
    let control = started(node)?;
    let parts: &[Part] = match what {
        What::Rollout => &[Part::Rollout],
        What::Learner => &[Part::Learner],
        What::All => &[Part::Rollout, Part::Learner],
    };
    parts.iter().for_each(|part| control.set_paused(*part, paused, BY));
    let is_paused = |part| control.is_paused(part);
    Ok(Json(json!({ "rollout": is_paused(Part::Rollout), "learner": is_paused(Part::Learner) })))
}

/// Changes settings by their keys in the config, such as `{"learner.beta": 0.2}`. All are checked before the first is changed.
#[utoipa::path(post, path = "/admin/config", tag = "operation", security(("token" = [])), request_body = serde_json::Value, responses((status = 200, body = serde_json::Value), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn configure(
    State(node): State<Node>,
    given: Result<Json<serde_json::Map<String, Value>>, JsonRejection>,
) -> Result<Json<Value>, Problem> {
    let (control, settings) = (started(&node)?, body(given)?);
    let tunings = settings.iter().map(|(key, value)| Tuning::parse(key, value)).collect::<Result<Vec<_>, _>>();
    let tunings = tunings.map_err(|why| Problem::bad_request("invalid_value", &why))?;
    for tuning in &tunings {
        control.check(tuning)?;
    }
    let changed = Json(json!({ "set": tunings.iter().map(ToString::to_string).collect::<Vec<_>>() }));
    to_its_end(async move {
        for tuning in &tunings {
            control.tune(tuning, BY).await?;
        }
        Ok::<_, ControlError>(())
    })
    .await?;
    Ok(changed)
}

/// Writes a checkpoint now.
#[utoipa::path(post, path = "/admin/checkpoint", tag = "operation", security(("token" = [])), responses((status = 200, body = serde_json::Value), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody), (status = 500, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn checkpoint(State(node): State<Node>) -> Result<Json<Value>, Problem> {
    let control = started(&node)?;
    let step = control.events().progress().step;
    to_its_end(async move { control.checkpoint().await }).await?;
    Ok(Json(json!({ "step": step })))
}

/// Lets the work under way finish, writes a checkpoint and ends the node, as a signal does.
#[utoipa::path(post, path = "/admin/drain", tag = "operation", security(("token" = [])), responses((status = 200, body = serde_json::Value), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn drain(State(node): State<Node>) -> Result<Json<Value>, Problem> {
    started(&node)?.drain(BY);
    Ok(Json(json!({ "draining": true })))
}

/// The same under the name that is looked for.
#[utoipa::path(post, path = "/admin/stop", tag = "operation", security(("token" = [])), responses((status = 200, body = serde_json::Value), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn stop(node: State<Node>) -> Result<Json<Value>, Problem> {
    drain(node).await
}
