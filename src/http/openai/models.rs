//! `/v1/models`: what a request may name.

use crate::http::api::{Api, Open};
use crate::http::model::{has_generator, has_judge};
use crate::http::problem::{ErrorBody, Problem};
use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use utoipa::ToSchema;

/// The models of the node.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ModelList {
    /// `list`.
    object: &'static str,
    /// The models.
    data: Vec<ModelCard>,
}

/// A model.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct ModelCard {
    /// Its name.
    id: String,
    /// `model`.
    object: &'static str,
    /// When the node began to serve, in seconds since 1970.
    created: u64,
    /// `rco-node`.
    owned_by: &'static str,
    /// Its weights: `critic@VERSION/DIGEST` or `base/DIGEST`.
    root: String,
    /// The model that it adapts.
    parent: Option<&'static str>,
    /// The longest prompt and text together, in tokens.
    max_model_len: usize,
}

fn cards(api: &Api) -> Result<Vec<ModelCard>, Problem> {
    let open = api.now()?;
    let models = &open.served.models;
    let card = |id: &str, root: String, parent| {
        let max_model_len = open.model(id).map_or(0, |model| model.context_tokens_max);
        let id = id.to_owned();
        ModelCard { id, object: "model", created: api.created, owned_by: "rco-node", root, parent, max_model_len }
    };
    let mut cards = Vec::new();
    if has_generator(models) {
        cards.push(card("generator", open.fingerprint(None), None));
    }
    cards.extend(critics(&open).into_iter().map(|(id, root)| card(&id, root, Some("generator"))));
    if has_judge(models) {
        let root = if models.judge_model.is_some() { "judge".to_owned() } else { open.fingerprint(None) };
        cards.push(card("judge", root, None));
    }
    Ok(cards)
}

/// Names and weights of the critics: the one in service first, then every version that is kept.
fn critics(open: &Open) -> Vec<(String, String)> {
    let kept = (open.served.critics)();
    let serving = kept.first().map(|kept| ("critic".to_owned(), open.fingerprint(Some(kept.version))));
    let named = kept.iter().map(|kept| (format!("critic@{}", kept.version.0), open.fingerprint(Some(kept.version))));
    serving.into_iter().chain(named).collect()
}

/// Lists the models that a request may name.
#[utoipa::path(get, path = "/v1/models", tag = "openai", responses(
    (status = 200, body = ModelList), (status = 503, body = ErrorBody)
))]
pub(super) async fn list(State(api): State<Api>) -> Result<Json<ModelList>, Problem> {
    Ok(Json(ModelList { object: "list", data: cards(&api)? }))
}

/// One model.
#[utoipa::path(get, path = "/v1/models/{model}", tag = "openai", params(("model" = String, Path)), responses(
    (status = 200, body = ModelCard), (status = 404, body = ErrorBody), (status = 503, body = ErrorBody)
))]
pub(super) async fn one(State(api): State<Api>, Path(model): Path<String>) -> Result<Json<ModelCard>, Problem> {
    let found = cards(&api)?.into_iter().find(|card| card.id == model);
    found.map(Json).ok_or_else(|| Problem::no_model(format!("model: no model {model:?} is served")))
}
