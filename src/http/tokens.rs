//! `/tokenize`, `/detokenize` and `/tokenizer_info`, in vLLM's shapes.

use super::api::Api;
use super::model::Model;
use super::problem::{ErrorBody, Problem};
use super::reading::{Body, Neutral};
use crate::episode::text_work::RENDERING;
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The routes of the tokenizer.
pub(super) fn routes(api: Api) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(tokenize))
        .routes(routes!(detokenize))
        .routes(routes!(tokenizer_info))
        .with_state(api)
}

/// The model whose tokenizer is asked if the request names none: all roles of the base model have the same.
const DEFAULT: &str = "critic";

#[derive(Debug, Deserialize, ToSchema)]
struct TokenizeRequest {
    /// A model of `/v1/models`.
    model: Option<String>,
    /// The text.
    prompt: String,
    /// Whether the token that documents begin with comes first; true if absent.
    add_special_tokens: Option<bool>,
    /// Whether the tokens' names are given too.
    return_token_strs: Option<bool>,
}

#[derive(Debug, Serialize, ToSchema)]
struct Tokenized {
    /// How many tokens.
    count: usize,
    /// The longest prompt and text together.
    max_model_len: usize,
    /// The ids.
    tokens: Vec<u32>,
    /// The tokens as the vocabulary writes them, if they were asked for.
    token_strs: Option<Vec<String>>,
}

#[derive(Debug, Deserialize, ToSchema)]
struct DetokenizeRequest {
    /// A model of `/v1/models`.
    model: Option<String>,
    /// The ids.
    tokens: Vec<u32>,
}

#[derive(Debug, Serialize, ToSchema)]
struct Detokenized {
    /// The text.
    prompt: String,
}

/// What clients that render chats themselves ask of a tokenizer.
#[derive(Debug, Serialize, ToSchema)]
struct TokenizerInfo {
    /// The kind of tokenizer.
    tokenizer_class: &'static str,
    /// Ids of its vocabulary.
    vocab_size: usize,
    /// The longest prompt and text together.
    model_max_length: usize,
    /// The token that documents begin with.
    bos_token: Option<String>,
    /// The token that ends a text.
    eos_token: Option<String>,
    /// There is none: prompts are never padded.
    pad_token: Option<String>,
}

/// Accepted where it changes nothing.
const NEUTRAL: &[Neutral] = &[("skip_special_tokens", "true", |value| value.as_bool() == Some(true))];

fn model(api: &Api, name: Option<&str>) -> Result<Model, Problem> {
    api.now()?.model(name.unwrap_or(DEFAULT))
}

/// The ids of a text.
#[utoipa::path(post, path = "/tokenize", tag = "tokenizer", request_body = TokenizeRequest, responses(
    (status = 200, body = Tokenized), (status = 400, body = ErrorBody), (status = 503, body = ErrorBody)
))]
async fn tokenize(State(api): State<Api>, body: Body) -> Result<Json<Tokenized>, Problem> {
    let mut fields = body.fields(&[])?;
    let request: TokenizeRequest = fields.read()?;
    fields.end()?;
    let model = model(&api, request.model.as_deref())?;
    let (tokenizer, text) = (model.tokenizer.clone(), request.prompt);
    let adds = request.add_special_tokens.unwrap_or(true);
    let encode = move || if adds { tokenizer.encode_document(&text) } else { tokenizer.encode(&text) };
    let encoded = RENDERING.run(encode).await.map_err(Problem::internal)?;
    let tokens = encoded.map_err(|error| Problem::invalid("prompt", format!("prompt: {error}")))?;
    let named = || tokens.iter().map(|id| model.tokenizer.token(*id).unwrap_or_default()).collect();
    let token_strs = request.return_token_strs.unwrap_or(false).then(named);
    Ok(Json(Tokenized { count: tokens.len(), max_model_len: model.context_tokens_max, tokens, token_strs }))
}

/// The text of ids.
#[utoipa::path(post, path = "/detokenize", tag = "tokenizer", request_body = DetokenizeRequest, responses(
    (status = 200, body = Detokenized), (status = 400, body = ErrorBody), (status = 503, body = ErrorBody)
))]
async fn detokenize(State(api): State<Api>, body: Body) -> Result<Json<Detokenized>, Problem> {
    let mut fields = body.fields(NEUTRAL)?;
    let request: DetokenizeRequest = fields.read()?;
    fields.end()?;
    let tokenizer = model(&api, request.model.as_deref())?.tokenizer;
    let len = tokenizer.len();
    if let Some(id) = request.tokens.iter().find(|id| **id as usize >= len) {
        return Err(Problem::invalid("tokens", format!("tokens: expected ids below {len}, got {id}")));
    }
    let decoded = RENDERING.run(move || tokenizer.decode(&request.tokens)).await.map_err(Problem::internal)?;
    let prompt = decoded.map_err(|error| Problem::invalid("tokens", format!("tokens: {error}")))?;
    Ok(Json(Detokenized { prompt }))
}

/// What the tokenizer is.
#[utoipa::path(get, path = "/tokenizer_info", tag = "tokenizer", responses(
    (status = 200, body = TokenizerInfo), (status = 503, body = ErrorBody)
))]
async fn tokenizer_info(State(api): State<Api>) -> Result<Json<TokenizerInfo>, Problem> {
    let Model { tokenizer, context_tokens_max, .. } = model(&api, None)?;
    let name = |id: u32| tokenizer.token(id);
    Ok(Json(TokenizerInfo {
        tokenizer_class: "PreTrainedTokenizerFast",
        vocab_size: tokenizer.len(),
        model_max_length: context_tokens_max,
        bos_token: tokenizer.bos().and_then(name),
        eos_token: tokenizer.stop_ids().first().copied().and_then(name),
        pad_token: None,
    }))
}
