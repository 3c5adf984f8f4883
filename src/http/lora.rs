//! vLLM's names for swaps, so that its tools work: of a node, and of a server that trains nothing.

use super::access::{Access, require_token};

use super::api::Api;
use super::held_critics::HeldCritics;
use super::node::{Node, body, started, to_its_end};
use super::problem::{ErrorBody, Problem};
use crate::actors::swap::Offer;
use crate::run::critics::{CriticEntry, CriticState};
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::{Json, middleware};
use serde::Deserialize;
use std::path::PathBuf;
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Who puts critics into service.
#[derive(Clone)]
pub(super) enum Loader {
    /// A node's swap actor: gate, canary, trial.
    Node(Node),
    /// A server that trains nothing: gate and logits.
    Server(Api),
}

/// The routes, which need the token.
pub(super) fn routes(loader: Loader, access: Access) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(load_lora_adapter))
        .routes(routes!(unload_lora_adapter))
        .with_state(loader)
        .layer(middleware::from_fn_with_state(access, require_token))
}

/// Who asked, in the registry, for a critic that was loaded as `name`.
fn loaded_as(name: &str) -> String {
    format!("load_lora_adapter {name}")
}

fn held(api: &Api) -> Result<Arc<HeldCritics>, Problem> {
    let held = api.now()?.served.held.clone();
    held.ok_or_else(|| Problem::unavailable("the node puts critics into service"))
}

/// As vLLM takes it.
#[derive(Deserialize, ToSchema)]
struct LoadLora {
    /// A name for people: it stands in the registry.
    lora_name: String,
    /// The folder.
    #[schema(value_type = String)]
    lora_path: PathBuf,
}

/// vLLM's name for a swap. Its answer is a text.
#[utoipa::path(post, path = "/v1/load_lora_adapter", tag = "operation", security(("token" = [])),
    request_body = LoadLora, responses(
    (status = 200, body = String), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 409, body = ErrorBody), (status = 422, body = ErrorBody),
    (status = 503, body = ErrorBody)
))]
async fn load_lora_adapter(
    State(loader): State<Loader>,
    given: Result<Json<LoadLora>, JsonRejection>,
) -> Result<String, Problem> {
    let LoadLora { lora_name, lora_path } = body(given)?;
    let version = match loader {
        Loader::Node(node) => {
            let control = started(&node)?;
            let (checks, by) = (control.checks(), loaded_as(&lora_name));
            let outcome = to_its_end(async move { control.swap(Offer::Folder(lora_path), checks, &by).await }).await?;
            if outcome.state != CriticState::Serving {
                let version = outcome.version.0;
                return Ok(format!(
                    "Success: LoRA adapter '{lora_name}' is on trial as critic@{version}: {}.",
                    outcome.why
                ));
            }
            outcome.version
        }
        Loader::Server(api) => {
            let (held, name) = (held(&api)?, lora_name.clone());
            to_its_end(async move { held.load(name, lora_path).await }).await?
        }
    };
    Ok(format!("Success: LoRA adapter '{lora_name}' added successfully as critic@{}.", version.0))
}

/// As vLLM takes it.
#[derive(Deserialize, ToSchema)]
struct UnloadLora {
    /// The name it was loaded under.
    lora_name: String,
}

/// vLLM's name for a rollback: of a node's critic in service, of a server's critic of that name.
#[utoipa::path(post, path = "/v1/unload_lora_adapter", tag = "operation", security(("token" = [])),
    request_body = UnloadLora, responses(
    (status = 200, body = String), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
    (status = 422, body = ErrorBody), (status = 503, body = ErrorBody)
))]
async fn unload_lora_adapter(
    State(loader): State<Loader>,
    given: Result<Json<UnloadLora>, JsonRejection>,
) -> Result<String, Problem> {
    let UnloadLora { lora_name } = body(given)?;
    match loader {
        Loader::Node(node) => {
            let control = started(&node)?;
            let (critics, by) = (control.critics(), loaded_as(&lora_name));
            let is_of_name = |entry: &&CriticEntry| entry.changes.first().is_some_and(|change| change.by == by);
            let loaded = critics.entries().filter(is_of_name).last().map(|entry| entry.version);
            match loaded {
                None => {
                    return Err(Problem::no_model(format!("lora_name: no critic was loaded as {lora_name:?}")));
                }
                Some(version) if version != critics.serving() => {
                    let why = format!("critic@{}, loaded as {lora_name:?}, is not in service", version.0);
                    return Err(Problem::new(StatusCode::CONFLICT, "not_in_service", &why));
                }
                Some(_) => {}
            }
            let by = format!("unload_lora_adapter {lora_name}");
            to_its_end(async move { control.rollback(None, &by).await }).await?;
        }
        Loader::Server(api) => {
            let (held, name) = (held(&api)?, lora_name.clone());
            to_its_end(async move { held.unload(&name).await }).await?;
        }
    }
    Ok(format!("Success: LoRA adapter '{lora_name}' removed successfully."))
}
