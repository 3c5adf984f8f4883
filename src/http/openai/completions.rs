//! `/v1/completions`: continues texts or token ids as they are, without a chat template.

use super::fields::{NEUTRAL, SharedFields, TOP_MAX};
use super::generation::{Generation, Step, Usage, fingerprint};
use super::shapes::{Answer, CompletionLogProbs, Envelope, no_text, reason, with_critic};
use super::sse::{self, Events};
use super::token_names::{NamedToken, TokenNames};
use crate::engine::{TokenReport, TokenReports};
use crate::episode::text_work::RENDERING;
use crate::formats::tokenizer::Tokenizer;
use crate::http::admission::Admitted;
use crate::http::handles::Handles;
use crate::http::model::Model;
use crate::http::problem::{ErrorBody, Problem};
use crate::http::reading::{Body, Neutral};
use crate::types::FinishReason;
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The longest text, in tokens, where the request does not say: OpenAI's.
const MAX_TOKENS: usize = 16;

/// Fields that only a completion has.
#[derive(Debug, Deserialize, ToSchema)]
struct CompletionFields {
    /// What is continued: a text, texts, ids, or lists of ids.
    prompt: PromptField,
    /// Whether the answer begins with the prompt, and its log-probabilities with the prompt's.
    echo: Option<bool>,
    /// Gives log-probabilities, and at each position this many of the likeliest tokens; at most 20.
    logprobs: Option<usize>,
}

/// A request for the continuation of texts.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the document shows both kinds of fields as one object")]
struct CompletionRequest {
    #[serde(flatten)]
    shared: SharedFields,
    #[serde(flatten)]
    own: CompletionFields,
}

/// What is continued.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a string, a list of strings, a list of ids or a list of lists of ids")]
enum PromptField {
    Text(String),
    Ids(Vec<u32>),
    Texts(Vec<String>),
    IdLists(Vec<Vec<u32>>),
}

/// Fields that are accepted where they change nothing.
const OWN_NEUTRAL: &[Neutral] = &[
    ("best_of", "1", |value| value.as_u64() == Some(1)),
    ("suffix", "no text", |value| value.as_str() == Some("")),
    ("add_special_tokens", "true", |value| value.as_bool() == Some(true)),
];

/// A text of an answer, or what it grows by.
#[derive(Clone, Debug, Serialize, ToSchema)]
struct CompletionChoice {
    /// Which: the texts of the first prompt come first.
    index: usize,
    /// The text.
    text: String,
    /// Log-probabilities, if they were asked for.
    logprobs: Option<CompletionLogProbs>,
    /// `stop` or `length`; null before the end.
    finish_reason: Option<&'static str>,
    /// Ids, if they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
    /// The prompt's ids, if ids were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<Vec<u32>>,
}

/// A prompt by its ids, with its text where that is needed.
struct Encoded {
    ids: Vec<u32>,
    text: String,
}

/// Continues texts.
#[utoipa::path(post, path = "/v1/completions", tag = "openai", request_body = CompletionRequest, responses(
    (status = 200, description = "The texts, or a stream of them", body = Answer<CompletionChoice>),
    (status = 400, body = ErrorBody), (status = 404, body = ErrorBody), (status = 429, body = ErrorBody),
    (status = 503, body = ErrorBody)
))]
pub(super) async fn completions(
    State(handles): State<Handles>,
    admitted: Admitted,
    body: Body,
) -> Result<Response, Problem> {
    let mut fields = body.fields(&[NEUTRAL, OWN_NEUTRAL].concat())?;
    let (shared, own) = (fields.read::<SharedFields>()?, fields.read::<CompletionFields>()?);
    fields.end()?;
    let open = handles.api.now()?;
    let model = open.model(&shared.model)?;
    admitted.deadline().within(open.hold_for(&model)).await??;
    if let Some(top) = own.logprobs.filter(|top| *top > TOP_MAX) {
        return Err(Problem::invalid("logprobs", format!("logprobs: expected at most {TOP_MAX}, got {top}")));
    }
    let (max_tokens, is_echoed) = (shared.max_tokens.unwrap_or(MAX_TOKENS), own.echo.unwrap_or(false));
    if max_tokens == 0 && !is_echoed {
        return Err(Problem::invalid("max_tokens", "max_tokens: expected at least 1 where echo is not true, got 0"));
    }
    let prompts = encode(&model, own.prompt.clone()).await?;
    let log_probs = own.logprobs.is_some();
    let reports = TokenReports { log_probs, top: own.logprobs.unwrap_or(0), prompt: is_echoed && log_probs };
    let ids = prompts.iter().map(|prompt| prompt.ids.clone()).collect();
    // The prompt's log-probabilities come with the first token, which a request for none leaves out.
    let requests = shared.requests(&model, ids, max_tokens.max(1), reports, handles.admission.texts_max)?;
    let generation = Generation::begin(&model, requests, admitted).await?;
    let (weights, critic) = fingerprint(&open, &model, &generation);
    let envelope = Envelope::new("cmpl", "text_completion", &shared.model, weights);
    let texts = Texts::new(&model.tokenizer, &shared, &own, prompts, max_tokens == 0);
    let response = match shared.is_streamed() {
        true => {
            let (ends_with_usage, tells_usage_always) = (shared.includes_usage(), shared.tells_usage_always());
            sse::response(generation, Chunks { envelope, texts, ends_with_usage, tells_usage_always })
        }
        false => whole(generation, envelope, texts).await?.into_response(),
    };
    Ok(with_critic(response, critic))
}

/// The prompts' ids; a text gets the token that documents begin with.
async fn encode(model: &Model, prompt: PromptField) -> Result<Vec<Encoded>, Problem> {
    let tokenizer = model.tokenizer.clone();
    let of_text = |tokenizer: &Tokenizer, text: String| Ok(Encoded { ids: tokenizer.encode_document(&text)?, text });
    let of_ids = |tokenizer: &Tokenizer, ids: Vec<u32>| {
        let known = ids.iter().all(|id| (*id as usize) < tokenizer.len());
        // The engine refuses an id that is none; it has no text.
        Ok(Encoded { text: if known { tokenizer.decode(&ids)? } else { String::new() }, ids })
    };
    let encode = move || -> crate::formats::Result<Vec<Encoded>> {
        match prompt {
            PromptField::Text(text) => Ok(vec![of_text(&tokenizer, text)?]),
            PromptField::Texts(texts) => texts.into_iter().map(|text| of_text(&tokenizer, text)).collect(),
            PromptField::Ids(ids) => Ok(vec![of_ids(&tokenizer, ids)?]),
            PromptField::IdLists(lists) => lists.into_iter().map(|ids| of_ids(&tokenizer, ids)).collect(),
        }
    };
    let encoded = RENDERING.run(encode).await.map_err(Problem::internal)?;
    let encoded = encoded.map_err(|error| Problem::invalid("prompt", format!("prompt: {error}")))?;
    match encoded.iter().any(|prompt| prompt.ids.is_empty()) || encoded.is_empty() {
        true => Err(Problem::invalid("prompt", "prompt: expected at least one token, got none")),
        false => Ok(encoded),
    }
}

/// Turns the steps of a generation into what the texts grow by.
struct Texts {
    n: usize,
    prompts: Vec<Encoded>,
    /// One for each text; empty where no log-probabilities are given.
    names: Vec<TokenNames>,
    is_echoed: bool,
    returns_ids: bool,
    /// Whether what is written is left out, because only the prompt was asked for.
    leaves_out: bool,
}

impl Texts {
    fn new(
        tokenizer: &Tokenizer,
        shared: &SharedFields,
        own: &CompletionFields,
        prompts: Vec<Encoded>,
        leaves_out: bool,
    ) -> Self {
        let n = shared.n();
        let named = if own.logprobs.is_some() { n * prompts.len() } else { 0 };
        let names = (0..named).map(|_| TokenNames::new(tokenizer)).collect();
        let (is_echoed, returns_ids) = (own.echo.unwrap_or(false), shared.returns_ids());
        Self { n, prompts, names, is_echoed, returns_ids, leaves_out }
    }

    /// What has been used so far. A token that is left out was not asked for.
    fn usage(&self, generation: &Generation) -> Usage {
        let usage = generation.usage();
        match self.leaves_out {
            true => usage.of_prompts(),
            false => usage,
        }
    }

    fn len(&self) -> usize {
        self.n * self.prompts.len()
    }

    fn named(&mut self, index: usize, tokens: &[TokenReport]) -> Result<Option<Vec<NamedToken>>, Problem> {
        let Some(names) = self.names.get_mut(index) else { return Ok(None) };
        let named = tokens.iter().map(|token| names.name(token)).collect::<Result<_, _>>();
        Ok(Some(named.map_err(no_text)?))
    }

    /// What `step` adds to each text that it is about.
    fn grown(&mut self, step: Step) -> Result<Vec<Growth>, Problem> {
        match step {
            Step::Started { prompt, tokens } => {
                let (first, n) = (prompt * self.n, self.n);
                let growth = |index: usize| {
                    let text = if self.is_echoed { self.prompts[prompt].text.clone() } else { String::new() };
                    let named = if self.is_echoed { self.named(index, &tokens)? } else { None };
                    let prompt_ids = self.returns_ids.then(|| self.prompts[prompt].ids.clone());
                    Ok(Growth { index, text, named, ids: Vec::new(), finish: None, prompt_ids })
                };
                (first..first + n).map(growth).collect()
            }
            Step::Grown { prompt, index, text, tokens, finish } => {
                let index = prompt * self.n + index;
                let (text, tokens) = if self.leaves_out { (String::new(), Vec::new()) } else { (text, tokens) };
                // A text of no tokens did not end by itself.
                let finish = finish.map(|finish| if self.leaves_out { FinishReason::Length } else { finish });
                let named = self.named(index, &tokens)?;
                let ids = tokens.iter().map(|token| token.id).collect();
                Ok(vec![Growth { index, text, named, ids, finish, prompt_ids: None }])
            }
        }
    }
}

/// What a text grows by.
struct Growth {
    index: usize,
    text: String,
    named: Option<Vec<NamedToken>>,
    ids: Vec<u32>,
    finish: Option<FinishReason>,
    prompt_ids: Option<Vec<u32>>,
}

impl Growth {
    fn is_empty(&self, shows_ids: bool) -> bool {
        let named = self.named.as_ref().is_some_and(|named| !named.is_empty());
        let ids = shows_ids && !self.ids.is_empty();
        self.text.is_empty() && !named && !ids && self.finish.is_none() && self.prompt_ids.is_none()
    }

    fn add(&mut self, more: Self) {
        self.text += &more.text;
        self.ids.extend(more.ids);
        self.finish = more.finish.or(self.finish);
        self.prompt_ids = self.prompt_ids.take().or(more.prompt_ids);
        match (&mut self.named, more.named) {
            (Some(named), Some(more)) => named.extend(more),
            (named, more) => *named = named.take().or(more),
        }
    }

    fn choice(self, shows_ids: bool) -> CompletionChoice {
        CompletionChoice {
            index: self.index,
            text: self.text,
            logprobs: self.named.map(CompletionLogProbs::new),
            finish_reason: self.finish.map(reason),
            token_ids: shows_ids.then_some(self.ids),
            prompt_token_ids: self.prompt_ids,
        }
    }
}

/// Waits for the whole answer.
async fn whole(
    mut generation: Generation,
    envelope: Envelope,
    mut texts: Texts,
) -> Result<Json<Answer<CompletionChoice>>, Problem> {
    let new =
        |index| Growth { index, text: String::new(), named: None, ids: Vec::new(), finish: None, prompt_ids: None };
    let mut growing: Vec<Growth> = (0..texts.len()).map(new).collect();
    while let Some(step) = generation.next().await? {
        for growth in texts.grown(step)? {
            growing[growth.index].add(growth);
        }
    }
    let usage = Some(texts.usage(&generation));
    let choices = growing.into_iter().map(|growth| growth.choice(texts.returns_ids)).collect();
    Ok(Json(Answer { envelope, choices, usage, prompt_token_ids: None }))
}

/// The events of a stream.
struct Chunks {
    envelope: Envelope,
    texts: Texts,
    ends_with_usage: bool,
    tells_usage_always: bool,
}

impl Chunks {
    fn event(&self, choices: Vec<CompletionChoice>, usage: Option<Usage>) -> Answer<CompletionChoice> {
        Answer { envelope: self.envelope.clone(), choices, usage, prompt_token_ids: None }
    }
}

impl Events for Chunks {
    type Event = Answer<CompletionChoice>;

    fn of_step(&mut self, step: Step, generation: &Generation) -> Result<Vec<Self::Event>, Problem> {
        let usage = self.tells_usage_always.then(|| self.texts.usage(generation));
        let shows_ids = self.texts.returns_ids;
        let grown = self.texts.grown(step)?.into_iter().filter(|growth| !growth.is_empty(shows_ids));
        Ok(grown.map(|growth| self.event(vec![growth.choice(shows_ids)], usage)).collect())
    }

    fn at_end(&mut self, generation: &Generation) -> Vec<Self::Event> {
        match self.ends_with_usage {
            true => vec![self.event(Vec::new(), Some(self.texts.usage(generation)))],
            false => Vec::new(),
        }
    }
}
