//! Texts under way: the streams of one request's prompts as one, with what they have used so far.
//!
//! Invariants: one critic version writes all texts of an answer; dropping a generation cancels what it asked for.

use crate::device::{self, CompletionStream};
use crate::engine::{self, Policy, Request, StreamEvent, TokenReport};
use crate::http::admission::{Admitted, Deadline};
use crate::http::api::Open;
use crate::http::model::Model;
use crate::http::problem::Problem;
use crate::types::{CriticVersion, FinishReason};
use futures_util::StreamExt;
use futures_util::future::try_join_all;
use futures_util::stream::{self, BoxStream, SelectAll};
use serde::Serialize;
use utoipa::ToSchema;

/// What an answer has used.
#[derive(Clone, Copy, Debug, Default, Serialize, ToSchema)]
pub(super) struct Usage {
    /// Tokens of the prompts, each counted once.
    prompt_tokens: usize,
    /// Tokens written.
    completion_tokens: usize,
    /// Both.
    total_tokens: usize,
    /// More about the prompts.
    prompt_tokens_details: PromptUsage,
}

impl Usage {
    /// The same for prompts alone: nothing that was written counts.
    pub(super) fn of_prompts(self) -> Self {
        Self { completion_tokens: 0, total_tokens: self.prompt_tokens, ..self }
    }
}

/// More about the prompts.
#[derive(Clone, Copy, Debug, Default, Serialize, ToSchema)]
pub(super) struct PromptUsage {
    /// Tokens that were found in the cache.
    cached_tokens: usize,
}

/// What happened to one of the texts, or to all texts of one prompt.
pub(super) enum Step {
    /// A prompt is computed.
    Started {
        /// Which.
        prompt: usize,
        /// Its tokens, if they were asked for.
        tokens: Vec<TokenReport>,
    },
    /// A text grows.
    Grown {
        /// Its prompt.
        prompt: usize,
        /// Which of the prompt's texts.
        index: usize,
        /// What it grows by.
        text: String,
        /// What its ids grow by.
        tokens: Vec<TokenReport>,
        /// Why it ended, if it has.
        finish: Option<FinishReason>,
    },
}

type Streams = SelectAll<BoxStream<'static, (usize, Result<StreamEvent, device::Error>)>>;

/// The texts of one request.
pub(super) struct Generation {
    streams: Streams,
    /// The first step, which names the version.
    first: Option<Step>,
    version: CriticVersion,
    deadline: Deadline,
    usage: Usage,
    _admitted: Admitted,
}

impl Generation {
    /// Asks for all of `requests` and waits for the first prompt.
    ///
    /// # Errors
    /// If a request is refused or fails, or the deadline passes.
    pub(super) async fn begin(model: &Model, requests: Vec<Request>, admitted: Admitted) -> Result<Self, Problem> {
        let deadline = admitted.deadline();
        let usage =
            Usage { prompt_tokens: requests.iter().map(|request| request.prompt.len()).sum(), ..Usage::default() };
        let asked = requests.into_iter().map(|request| model.device.stream(request));
        let streams = deadline.within(try_join_all(asked)).await?.map_err(|error| problem(&error, model))?;
        let streams = streams.into_iter().enumerate().map(|(prompt, stream)| numbered(prompt, stream).boxed());
        let (streams, version) = (stream::select_all(streams), CriticVersion::BASE);
        let mut generation = Self { streams, first: None, version, deadline, usage, _admitted: admitted };
        let (prompt, event) = generation.event().await?.ok_or_else(|| Problem::internal("the device wrote nothing"))?;
        if let StreamEvent::Started { version, .. } = event {
            generation.version = version;
        }
        generation.first = Some(generation.step(prompt, event)?);
        Ok(generation)
    }

    /// The next step; none after the last.
    ///
    /// # Errors
    /// If a text fails or the deadline passes.
    pub(super) async fn next(&mut self) -> Result<Option<Step>, Problem> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        match self.event().await? {
            Some((prompt, event)) => self.step(prompt, event).map(Some),
            None => Ok(None),
        }
    }

    /// What has been used so far.
    pub(super) fn usage(&self) -> Usage {
        let Usage { prompt_tokens, completion_tokens, .. } = self.usage;
        Usage { total_tokens: prompt_tokens + completion_tokens, ..self.usage }
    }

    /// The critic that writes; none if the base does.
    pub(super) fn critic(&self, model: &Model) -> Option<CriticVersion> {
        (model.policy != Policy::Base).then_some(self.version)
    }

    async fn event(&mut self) -> Result<Option<(usize, StreamEvent)>, Problem> {
        match self.deadline.within(self.streams.next()).await? {
            None => Ok(None),
            Some((prompt, Ok(event))) => Ok(Some((prompt, event))),
            Some((_, Err(error))) => Err(of_device(&error)),
        }
    }

    fn step(&mut self, prompt: usize, event: StreamEvent) -> Result<Step, Problem> {
        match event {
            StreamEvent::Started { version, cached_tokens, prompt: tokens } => {
                if version != self.version {
                    let message = "another critic was put into service between two prompts of this request: ask again";
                    return Err(Problem::unavailable(message));
                }
                self.usage.prompt_tokens_details.cached_tokens += cached_tokens;
                Ok(Step::Started { prompt, tokens })
            }
            StreamEvent::Tokens { index, text, tokens, finish } => {
                self.usage.completion_tokens += tokens.len();
                Ok(Step::Grown { prompt, index, text, tokens, finish })
            }
        }
    }
}

/// The events of `stream` with the number of their prompt.
fn numbered(
    prompt: usize,
    stream: CompletionStream,
) -> impl stream::Stream<Item = (usize, Result<StreamEvent, device::Error>)> {
    stream::unfold(stream, move |mut stream| async move {
        let event = stream.next().await?;
        Some(((prompt, event), stream))
    })
}

/// Names the weights of an answer: the fingerprint, and the critic's version for the header.
pub(super) fn fingerprint(open: &Open, model: &Model, generation: &Generation) -> (String, Option<CriticVersion>) {
    let critic = generation.critic(model);
    (open.fingerprint(critic), critic)
}

/// Why the device refused a request of `model`.
fn problem(error: &device::Error, model: &Model) -> Problem {
    match error {
        device::Error::Engine(engine::Error::Version { .. }) => {
            Problem::unavailable(format!("model: {:?} left memory while it was asked for: ask again", model.name))
        }
        _ => of_device(error),
    }
}

/// Why the device failed.
pub(super) fn of_device(error: &device::Error) -> Problem {
    match error {
        device::Error::Gone => Problem::unavailable("the device was stopped or is being restarted"),
        device::Error::Engine(engine::Error::PromptLength { .. }) => Problem::too_long("prompt", error.to_string()),
        device::Error::Engine(engine::Error::TokenId { .. }) => Problem::invalid("prompt", error.to_string()),
        device::Error::Engine(engine::Error::Version { .. }) => Problem::no_model(error.to_string()),
        _ => Problem::internal(error.to_string()),
    }
}
