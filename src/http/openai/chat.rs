//! `/v1/chat/completions`.

use super::fields::{NEUTRAL, SharedFields, TOP_MAX};
use super::generation::{Generation, Step, Usage, fingerprint};
use super::shapes::{Answer, ChatLogProbs, Envelope, no_text, reason, with_critic};
use super::sse::{self, Events};
use super::token_names::TokenNames;
use crate::engine::{TokenReport, TokenReports};
use crate::episode::text_work::RENDERING;
use crate::formats::conversation;
use crate::http::admission::Admitted;
use crate::http::handles::Handles;
use crate::http::model::Model;
use crate::http::problem::{ErrorBody, Problem};
use crate::http::reading::{Body, Neutral};
use crate::types::{ChatRole, FinishReason, Turn};
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Fields that only a chat has.
#[derive(Debug, Deserialize, ToSchema)]
struct ChatFields {
    /// The conversation.
    messages: Vec<Message>,
    /// The longest text, in tokens; as long as the context allows if absent.
    max_completion_tokens: Option<usize>,
    /// Whether log-probabilities are given.
    logprobs: Option<bool>,
    /// How many of the likeliest tokens are given at each position, at most 20.
    top_logprobs: Option<usize>,
}

/// A request for the continuation of a conversation.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the document shows both kinds of fields as one object")]
struct ChatRequest {
    #[schema(inline)]
    #[serde(flatten)]
    shared: SharedFields,
    #[serde(flatten)]
    own: ChatFields,
}

/// A turn of the conversation.
#[derive(Debug, Deserialize, ToSchema)]
struct Message {
    /// `system`, `developer` (the same), `user` or `assistant`.
    role: MessageRole,
    /// Its text.
    content: Content,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum MessageRole {
    System,
    Developer,
    User,
    Assistant,
}

/// A text, whole or in parts.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a string or a list of {\"type\": \"text\", \"text\": ...}")]
enum Content {
    Whole(String),
    Parts(Vec<Part>),
}

/// A part of a text.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Part {
    /// `text`.
    #[serde(rename = "type")]
    _kind: PartKind,
    /// The text.
    text: String,
}

/// The kind of a part.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum PartKind {
    Text,
}

/// Fields of vLLM that are accepted where they change nothing.
const OWN_NEUTRAL: &[Neutral] = &[
    ("echo", "false", |value| value.as_bool() == Some(false)),
    ("add_special_tokens", "false", |value| value.as_bool() == Some(false)),
];

/// A text of an answer.
#[derive(Clone, Debug, Serialize, ToSchema)]
struct ChatChoice {
    /// Which.
    index: usize,
    /// The turn.
    message: AnswerMessage,
    /// Log-probabilities, if they were asked for.
    logprobs: Option<ChatLogProbs>,
    /// `stop` or `length`.
    finish_reason: &'static str,
    /// Ids, if they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
}

/// The assistant's turn.
#[derive(Clone, Debug, Serialize, ToSchema)]
struct AnswerMessage {
    /// `assistant`.
    role: &'static str,
    /// The text.
    content: String,
    /// Always null.
    refusal: Option<String>,
}

/// What a text of a stream grows by.
#[derive(Clone, Debug, Serialize, ToSchema)]
struct ChunkChoice {
    /// Which.
    index: usize,
    /// What it grows by.
    delta: Delta,
    /// Log-probabilities, if they were asked for.
    logprobs: Option<ChatLogProbs>,
    /// `stop` or `length`; null before the end.
    finish_reason: Option<&'static str>,
    /// Ids, if they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
}

/// What a turn grows by.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
}

/// Continues a conversation.
#[utoipa::path(post, path = "/v1/chat/completions", tag = "openai", request_body = ChatRequest, responses(
    (status = 200, description = "The texts, or a stream of them", body = Answer<ChatChoice>),
    (status = 400, body = ErrorBody), (status = 404, body = ErrorBody), (status = 429, body = ErrorBody),
    (status = 503, body = ErrorBody)
))]
pub(super) async fn chat(State(handles): State<Handles>, admitted: Admitted, body: Body) -> Result<Response, Problem> {
    let mut fields = body.fields(&[NEUTRAL, OWN_NEUTRAL].concat())?;
    let (shared, own) = (fields.read::<SharedFields>()?, fields.read::<ChatFields>()?);
    fields.end()?;
    let open = handles.api.now()?;
    let model = open.model(&shared.model)?;
    admitted.deadline().within(open.hold_for(&model)).await??;
    let wants = Wants::new(&shared, &own)?;
    let max_tokens = own.max_completion_tokens.or(shared.max_tokens).unwrap_or(model.context_tokens_max);
    if max_tokens == 0 {
        return Err(Problem::invalid("max_tokens", "max_tokens: expected at least 1, got 0"));
    }
    let prompt = encode(&model, own.messages).await?;
    let reports = TokenReports { log_probs: wants.log_probs, top: wants.top, prompt: false };
    let requests = shared.requests(&model, vec![prompt.clone()], max_tokens, reports, handles.admission.texts_max)?;
    let generation =
        Generation::begin(&model, requests, admitted).await.map_err(|problem| problem.renamed("messages"))?;
    let (weights, critic) = fingerprint(&open, &model, &generation);
    let object = if shared.is_streamed() { "chat.completion.chunk" } else { "chat.completion" };
    let envelope = Envelope::new("chatcmpl", object, &shared.model, weights);
    let prompt = wants.ids.then_some(prompt);
    let response = match shared.is_streamed() {
        true => sse::response(generation, Chunks::new(envelope, &model, &shared, wants, prompt)),
        false => whole(generation, envelope, &model, shared.n(), wants, prompt).await?.into_response(),
    };
    Ok(with_critic(response, critic))
}

/// What is given beside the texts.
#[derive(Clone, Copy)]
struct Wants {
    log_probs: bool,
    top: usize,
    ids: bool,
}

impl Wants {
    fn new(shared: &SharedFields, own: &ChatFields) -> Result<Self, Problem> {
        let (log_probs, top) = (own.logprobs.unwrap_or(false), own.top_logprobs.unwrap_or(0));
        let why = match (log_probs, top) {
            (false, 1..) => Some("0 where logprobs is not true".to_owned()),
            (true, top) if top > TOP_MAX => Some(format!("at most {TOP_MAX}")),
            _ => None,
        };
        if let Some(expected) = why {
            return Err(Problem::invalid("top_logprobs", format!("top_logprobs: expected {expected}, got {top}")));
        }
        Ok(Self { log_probs, top, ids: shared.returns_ids() })
    }
}

/// The ids of the conversation, up to the start of the assistant's turn.
async fn encode(model: &Model, messages: Vec<Message>) -> Result<Vec<u32>, Problem> {
    if messages.is_empty() {
        return Err(Problem::invalid("messages", "messages: expected at least one, got none"));
    }
    let turns: Vec<Turn> = messages.into_iter().map(turn).collect();
    let (template, tokenizer) = (model.template.clone(), model.tokenizer.clone());
    let render = move || conversation::ids(&template, &tokenizer, &turns);
    let rendered = RENDERING.run(render).await.map_err(Problem::internal)?;
    rendered.map_err(|error| Problem::invalid("messages", format!("messages: {error}")))
}

fn turn(message: Message) -> Turn {
    let role = match message.role {
        MessageRole::System | MessageRole::Developer => ChatRole::System,
        MessageRole::User => ChatRole::User,
        MessageRole::Assistant => ChatRole::Assistant,
    };
    let text = match message.content {
        Content::Whole(text) => text,
        Content::Parts(parts) => parts.into_iter().map(|part| part.text).collect(),
    };
    Turn::new(role, text)
}

/// One text so far.
struct Growing {
    text: String,
    ids: Vec<u32>,
    names: TokenNames,
    log_probs: Vec<super::token_names::NamedToken>,
    finish: FinishReason,
}

/// Waits for the whole answer.
async fn whole(
    mut generation: Generation,
    envelope: Envelope,
    model: &Model,
    n: usize,
    wants: Wants,
    prompt: Option<Vec<u32>>,
) -> Result<Json<Answer<ChatChoice>>, Problem> {
    let new = || Growing {
        text: String::new(),
        ids: Vec::new(),
        names: TokenNames::new(&model.tokenizer),
        log_probs: Vec::new(),
        finish: FinishReason::Length,
    };
    let mut texts: Vec<Growing> = (0..n).map(|_| new()).collect();
    while let Some(step) = generation.next().await? {
        let Step::Grown { index, text, tokens, finish, .. } = step else { continue };
        let growing = &mut texts[index];
        growing.text += &text;
        growing.finish = finish.unwrap_or(growing.finish);
        for token in &tokens {
            growing.ids.push(token.id);
            if wants.log_probs {
                growing.log_probs.push(growing.names.name(token).map_err(no_text)?);
            }
        }
    }
    let choices = texts.into_iter().enumerate().map(|(index, text)| ChatChoice {
        index,
        message: AnswerMessage { role: "assistant", content: text.text, refusal: None },
        logprobs: wants.log_probs.then(|| ChatLogProbs::new(text.log_probs)),
        finish_reason: reason(text.finish),
        token_ids: wants.ids.then_some(text.ids),
    });
    let usage = Some(generation.usage());
    Ok(Json(Answer { envelope, choices: choices.collect(), usage, prompt_token_ids: prompt }))
}

/// The events of a stream.
struct Chunks {
    envelope: Envelope,
    wants: Wants,
    names: Vec<TokenNames>,
    /// The prompt's ids, which the first event carries.
    prompt: Option<Vec<u32>>,
    ends_with_usage: bool,
    tells_usage_always: bool,
}

impl Chunks {
    fn new(envelope: Envelope, model: &Model, shared: &SharedFields, wants: Wants, prompt: Option<Vec<u32>>) -> Self {
        let names = (0..shared.n()).map(|_| TokenNames::new(&model.tokenizer)).collect();
        let (ends_with_usage, tells_usage_always) = (shared.includes_usage(), shared.tells_usage_always());
        Self { envelope, wants, names, prompt, ends_with_usage, tells_usage_always }
    }

    fn event(&mut self, choices: Vec<ChunkChoice>, usage: Option<Usage>) -> Answer<ChunkChoice> {
        Answer { envelope: self.envelope.clone(), choices, usage, prompt_token_ids: self.prompt.take() }
    }

    fn choice(
        &mut self,
        index: usize,
        text: String,
        tokens: &[TokenReport],
        finish: Option<FinishReason>,
    ) -> Result<Option<ChunkChoice>, Problem> {
        let logprobs = match self.wants.log_probs && !tokens.is_empty() {
            true => {
                let named = tokens.iter().map(|token| self.names[index].name(token));
                Some(ChatLogProbs::new(named.collect::<Result<_, _>>().map_err(no_text)?))
            }
            false => None,
        };
        let token_ids = self.wants.ids.then(|| tokens.iter().map(|token| token.id).collect());
        if text.is_empty() && finish.is_none() && logprobs.is_none() && token_ids.is_none() {
            return Ok(None);
        }
        let delta = Delta { role: None, content: Some(text) };
        Ok(Some(ChunkChoice { index, delta, logprobs, finish_reason: finish.map(reason), token_ids }))
    }
}

impl Events for Chunks {
    type Event = Answer<ChunkChoice>;

    fn of_step(&mut self, step: Step, generation: &Generation) -> Result<Vec<Self::Event>, Problem> {
        let usage = self.tells_usage_always.then(|| generation.usage());
        match step {
            Step::Started { .. } => {
                let delta = || Delta { role: Some("assistant"), content: Some(String::new()) };
                let begun =
                    |index| ChunkChoice { index, delta: delta(), logprobs: None, finish_reason: None, token_ids: None };
                let events = (0..self.names.len()).map(|index| self.event(vec![begun(index)], usage));
                Ok(events.collect())
            }
            Step::Grown { index, text, tokens, finish, .. } => {
                let choice = self.choice(index, text, &tokens, finish)?;
                Ok(choice.map(|choice| self.event(vec![choice], usage)).into_iter().collect())
            }
        }
    }

    fn at_end(&mut self, generation: &Generation) -> Vec<Self::Event> {
        match self.ends_with_usage {
            true => vec![self.event(Vec::new(), Some(generation.usage()))],
            false => Vec::new(),
        }
    }
}
