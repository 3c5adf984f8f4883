//! Shapes of OpenAI's answers that chat completions and completions share.

use super::generation::Usage;
use super::token_names::{NamedToken, bytes};
use crate::http::problem::Problem;
use crate::types::{CriticVersion, FinishReason, unix_time};
use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// The header that names the critic version that wrote an answer.
const CRITIC_VERSION: HeaderName = HeaderName::from_static("x-critic-version");

/// What every answer and every event of a stream begins with.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Envelope {
    /// Names the answer.
    pub(super) id: String,
    /// The kind of object.
    pub(super) object: &'static str,
    /// When it was begun, in seconds since 1970.
    pub(super) created: u64,
    /// The model that was asked.
    pub(super) model: String,
    /// The weights that wrote it: `critic@VERSION/DIGEST` or `base/DIGEST`.
    pub(super) system_fingerprint: String,
}

impl Envelope {
    pub(super) fn new(prefix: &str, object: &'static str, model: &str, system_fingerprint: String) -> Self {
        let id = format!("{prefix}-{:016x}", crate::http::request_id::random());
        let created = unix_time::now().as_secs();
        Self { id, object, created, model: model.to_owned(), system_fingerprint }
    }
}

/// Adds the critic version's header.
pub(super) fn with_critic(mut response: Response, critic: Option<CriticVersion>) -> Response {
    if let Some(version) = critic {
        response.headers_mut().insert(CRITIC_VERSION, HeaderValue::from(version.0));
    }
    response
}

/// An answer or an event: its envelope, its choices and what has been used.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Answer<C> {
    #[serde(flatten)]
    pub(super) envelope: Envelope,
    /// The texts.
    pub(super) choices: Vec<C>,
    /// What has been used; null in events before the last.
    pub(super) usage: Option<Usage>,
    /// The prompt's ids, if ids were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) prompt_token_ids: Option<Vec<u32>>,
}

/// Why a text ended, in OpenAI's words.
pub(super) fn reason(finish: FinishReason) -> &'static str {
    match finish {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
    }
}

/// The problem of a token without a text.
pub(super) fn no_text(error: crate::formats::Error) -> Problem {
    Problem::internal(error.to_string())
}

/// Log-probabilities of a chat's text.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct ChatLogProbs {
    /// One for each token.
    content: Vec<ChatLogProb>,
}

/// A token of a chat's text.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct ChatLogProb {
    /// Its text.
    token: String,
    /// Its log-probability, in nats.
    logprob: f32,
    /// Its text's bytes.
    bytes: Option<Vec<u8>>,
    /// The likeliest tokens at its position.
    top_logprobs: Vec<TopLogProb>,
}

/// A likely token.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct TopLogProb {
    /// Its text.
    token: String,
    /// Its log-probability, in nats.
    logprob: f32,
    /// Its text's bytes.
    bytes: Option<Vec<u8>>,
}

impl ChatLogProbs {
    pub(super) fn new(tokens: Vec<NamedToken>) -> Self {
        let top = |(token, logprob): (String, f32)| TopLogProb { bytes: bytes(&token), token, logprob };
        let content = tokens.into_iter().map(|NamedToken { text, log_prob, top: likely, .. }| ChatLogProb {
            bytes: bytes(&text),
            token: text,
            logprob: log_prob.unwrap_or_default(),
            top_logprobs: likely.into_iter().map(top).collect(),
        });
        Self { content: content.collect() }
    }
}

/// Log-probabilities of a completion's text.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub(super) struct CompletionLogProbs {
    /// The tokens' texts.
    tokens: Vec<String>,
    /// Their log-probabilities, in nats; null for the first token of a prompt.
    token_logprobs: Vec<Option<f32>>,
    /// At each position the likeliest tokens and the token itself.
    top_logprobs: Vec<Option<BTreeMap<String, f32>>>,
    /// Where each begins in the text, in characters.
    text_offset: Vec<usize>,
}

impl CompletionLogProbs {
    pub(super) fn new(tokens: Vec<NamedToken>) -> Self {
        let mut all = Self::default();
        for NamedToken { text, offset, log_prob, top } in tokens {
            all.top_logprobs.push(log_prob.map(|own| {
                let mut likely = BTreeMap::new();
                // Tokens of one text share a key: the likeliest keeps it, and the token itself before all.
                top.into_iter().rev().for_each(|(token, log_prob)| _ = likely.insert(token, log_prob));
                likely.insert(text.clone(), own);
                likely
            }));
            all.token_logprobs.push(log_prob);
            all.text_offset.push(offset);
            all.tokens.push(text);
        }
        all
    }
}
