//! From a conversation to ids, to the device and back: what every role that writes shares.
//!
//! Knows template, tokenizer and device; knows no role's wording and no actor.
//!
//! Invariant: a conversation that continues an earlier one begins with that one's very ids, sampled ids
//! included, wherever the template leaves the text as it was written. Encoding the whole text again
//! could split it into other tokens, and then neither cache nor log-probabilities would fit.

use crate::device::{self, Device};
use crate::engine::{self, Request, sampler::SamplingConfig};
use crate::episode::seed::mix;
use crate::formats;
use crate::formats::{template::ChatTemplate, tokenizer::Tokenizer};
use crate::remote::{ChatRequest, ChatResponse, Client};
use crate::run::events::{Event, EventBus};
use crate::telemetry::metrics::Role;
use crate::transformer::full_weights::CriticWeights;
use crate::types::{Completion, CriticVersion, Turn};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Why nothing was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SampleError {
    /// Not in time.
    #[error("deadline passed")]
    Deadline,
    /// The prompt does not fit into the context.
    #[error("prompt too long")]
    TooLong,
    /// The device or an actor on the way is gone.
    #[error("gone")]
    Gone,
    /// A remote server gave no answer.
    #[error("remote server: {0}")]
    Remote(String),
    /// Something that will not go away by itself.
    #[error("{0}")]
    Broken(String),
}

impl From<formats::Error> for SampleError {
    fn from(error: formats::Error) -> Self {
        Self::Broken(error.to_string())
    }
}

impl From<device::Error> for SampleError {
    fn from(error: device::Error) -> Self {
        match error {
            device::Error::Gone => Self::Gone,
            device::Error::Engine(engine::Error::PromptLength { .. }) => Self::TooLong,
            other => Self::Broken(other.to_string()),
        }
    }
}

/// A conversation ready to be continued by the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenderedPrompt {
    /// As turns.
    pub turns: Vec<Turn>,
    /// As the template renders them, up to where the assistant speaks next; empty where that is done elsewhere.
    pub text: String,
    /// As ids; empty where the text is.
    pub ids: Vec<u32>,
}

impl RenderedPrompt {
    /// A conversation for a server that has a template and a tokenizer of its own.
    fn elsewhere(turns: Vec<Turn>) -> Self {
        Self { turns, text: String::new(), ids: Vec::new() }
    }

    /// A conversation from its beginning.
    pub(crate) fn begin(template: &ChatTemplate, tokenizer: &Tokenizer, turns: Vec<Turn>) -> formats::Result<Self> {
        let text = template.render(&turns, true)?;
        let ids = tokenizer.encode(&text)?;
        Ok(Self { turns, text, ids })
    }

    /// A conversation that goes on after `written`, the assistant's answer to `earlier`.
    pub(crate) fn continue_after(
        template: &ChatTemplate,
        tokenizer: &Tokenizer,
        earlier: &Self,
        written: &Completion,
        turns: Vec<Turn>,
    ) -> formats::Result<Self> {
        let text = template.render(&turns, true)?;
        let ids = continue_after(tokenizer, earlier, written, &text)?;
        Ok(Self { turns, text, ids })
    }
}

/// The weights that texts are written with, over the base.
#[derive(Clone)]
pub enum PolicyRef {
    /// None: the base itself.
    Base,
    /// The critic in service.
    Serving,
    /// This critic, whichever is in service.
    Critic(CriticVersion, CriticWeights),
}

/// Writes for one role.
#[derive(Clone)]
pub struct SamplingClient {
    /// Whom it writes for.
    pub role: Role,
    /// What it writes with.
    pub policy: PolicyRef,
    /// How it samples.
    pub sampling: SamplingConfig,
    /// How long one answer may take.
    pub deadline: Duration,
    /// Where texts are written, unless a server elsewhere writes them.
    pub device: Device,
    /// The server that does.
    pub remote: Option<Arc<Client>>,
    /// Conversation to text.
    pub template: ChatTemplate,
    /// Text to ids.
    pub tokenizer: Tokenizer,
    /// Who is told.
    pub events: EventBus,
}

impl SamplingClient {
    /// A conversation from its beginning.
    pub(crate) fn compose(&self, turns: Vec<Turn>) -> formats::Result<RenderedPrompt> {
        if self.remote.is_some() {
            return Ok(RenderedPrompt::elsewhere(turns));
        }
        RenderedPrompt::begin(&self.template, &self.tokenizer, turns)
    }

    /// A conversation that goes on after `written`, the assistant's answer to `earlier`.
    pub(crate) fn continue_after(
        &self,
        earlier: &RenderedPrompt,
        written: &Completion,
        turns: Vec<Turn>,
    ) -> formats::Result<RenderedPrompt> {
        if self.remote.is_some() {
            return Ok(RenderedPrompt::elsewhere(turns));
        }
        RenderedPrompt::continue_after(&self.template, &self.tokenizer, earlier, written, turns)
    }

    /// `n` continuations of `prompt`; fewer, and at least one, where a remote server gave only those. Dropping the
    /// future takes them back.
    ///
    /// # Errors
    /// Where the prompt does not fit, the deadline passed, the device is gone or a remote server gave nothing.
    pub(crate) async fn write(
        &self,
        prompt: &RenderedPrompt,
        n: usize,
        seed: u64,
    ) -> Result<Vec<Completion>, SampleError> {
        let begun = Instant::now();
        let written = match &self.remote {
            Some(client) => self.in_time(self.write_elsewhere(client, &prompt.turns, n, seed)).await?,
            None => self.write_here(&prompt.ids, n, seed).await?,
        };
        self.events.emit(Event::Sampled {
            role: self.role,
            tokens: written.iter().map(|text| text.ids.len()).collect(),
            seconds: begun.elapsed().as_secs_f64(),
        });
        Ok(written)
    }

    async fn write_here(&self, prompt: &[u32], n: usize, seed: u64) -> Result<Vec<Completion>, SampleError> {
        let request = Request {
            prompt: prompt.to_vec(),
            n,
            sampling: self.sampling.clone(),
            stop_ids: self.tokenizer.stop_ids().to_vec(),
            seed,
            critic: !matches!(self.policy, PolicyRef::Base),
        };
        let completions = match &self.policy {
            PolicyRef::Base | PolicyRef::Serving => self.in_time(self.device.write(request)).await?,
            PolicyRef::Critic(version, adapter) => {
                self.in_time(self.device.write_as(*version, adapter.clone(), request)).await?
            }
        };
        Ok(completions)
    }

    /// `n` questions to a server, all at once; what it answered.
    async fn write_elsewhere(
        &self,
        client: &Arc<Client>,
        turns: &[Turn],
        n: usize,
        seed: u64,
    ) -> Result<Vec<Completion>, SampleError> {
        let mut asking = JoinSet::new();
        for index in 0..n {
            let (client, chat) = (client.clone(), self.chat(turns, mix(seed, index as u64)));
            asking.spawn(async move { (index, client.chat(&chat).await) });
        }
        let (mut answers, mut failure) = (Vec::with_capacity(n), None);
        while let Some(asked) = asking.join_next().await {
            match asked.map_err(|error| SampleError::Broken(error.to_string()))? {
                (index, Ok(answer)) => answers.push((index, answer)),
                (_, Err(error)) => failure = Some(error),
            }
        }
        if let (true, Some(error)) = (answers.is_empty(), failure) {
            return Err(SampleError::Remote(error.to_string()));
        }
        answers.sort_by_key(|(index, _)| *index);
        answers.into_iter().map(|(_, answer)| Ok(self.written_elsewhere(answer)?)).collect()
    }

    /// A text that came as text: its ids are this tokenizer's, and nobody knows their log-probabilities here.
    fn written_elsewhere(&self, answer: ChatResponse) -> formats::Result<Completion> {
        let ChatResponse { text, finish, .. } = answer;
        let ids = self.tokenizer.encode(&text)?;
        Ok(Completion { text, ids, log_probs: Vec::new(), version: CriticVersion::BASE, finish })
    }

    fn chat(&self, turns: &[Turn], seed: u64) -> ChatRequest {
        let SamplingConfig { max_tokens, temperature, top_k, top_p, min_p, stop } = self.sampling.clone();
        ChatRequest {
            turns: turns.to_vec(),
            max_tokens,
            temperature,
            top_k,
            top_p,
            min_p,
            stop,
            seed,
            wants_log_probs: false,
        }
    }

    /// The likeliest first tokens of a server's answer, as texts with their log-probabilities (nats); none where no
    /// server answers for this role.
    ///
    /// # Errors
    /// As [`SamplingClient::write`].
    pub(crate) async fn first_tokens(
        &self,
        prompt: &RenderedPrompt,
        seed: u64,
    ) -> Result<Option<Vec<(String, f64)>>, SampleError> {
        let Some(client) = &self.remote else { return Ok(None) };
        let begun = Instant::now();
        // Under the model's own distribution, as here.
        let chat = ChatRequest {
            turns: prompt.turns.clone(),
            temperature: 1.0,
            seed,
            wants_log_probs: true,
            ..ChatRequest::default()
        };
        let asked = async { client.chat(&chat).await.map_err(|error| SampleError::Remote(error.to_string())) };
        let answer = self.in_time(asked).await?;
        let seconds = begun.elapsed().as_secs_f64();
        self.events.emit(Event::Sampled { role: self.role, tokens: Vec::new(), seconds });
        Ok(Some(answer.first_tokens))
    }

    /// Log-probabilities (nats) of `candidates`, each as the next token of `prompt`. Dropping the future takes the
    /// question back.
    ///
    /// # Errors
    /// As [`SamplingClient::write`].
    pub(crate) async fn weigh(&self, prompt: Vec<u32>, candidates: Vec<u32>) -> Result<Vec<f32>, SampleError> {
        let begun = Instant::now();
        let weighed = self.in_time(self.device.score_candidates(prompt, candidates)).await?;
        let seconds = begun.elapsed().as_secs_f64();
        self.events.emit(Event::Sampled { role: self.role, tokens: Vec::new(), seconds });
        Ok(weighed)
    }

    async fn in_time<T, E>(&self, answer: impl Future<Output = Result<T, E>>) -> Result<T, SampleError>
    where
        SampleError: From<E>,
    {
        match tokio::time::timeout(self.deadline, answer).await {
            Ok(answer) => Ok(answer?),
            Err(_) => {
                self.events.emit(Event::DeadlineMissed(self.role));
                Err(SampleError::Deadline)
            }
        }
    }
}

/// The ids of `text`, which goes on after `written`, the answer to `earlier`: earlier ids, sampled ids
/// and the ids of the rest, where `text` holds both unchanged; else the ids of the whole text.
fn continue_after(
    tokenizer: &Tokenizer,
    earlier: &RenderedPrompt,
    written: &Completion,
    text: &str,
) -> formats::Result<Vec<u32>> {
    let rest = text.strip_prefix(earlier.text.as_str()).and_then(|text| text.strip_prefix(written.text.as_str()));
    let sampled = match written.ids.split_last() {
        // The template closes the turn itself.
        Some((last, before)) if tokenizer.stop_ids().contains(last) => before,
        _ => &written.ids,
    };
    let (Some(rest), true) = (rest, tokenizer.decode(sampled)? == written.text) else {
        return tokenizer.encode(text);
    };
    let mut ids = [&earlier.ids, sampled].concat();
    ids.extend(tokenizer.encode(rest)?);
    Ok(ids)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::types::{ChatRole, CriticVersion, FinishReason};
    use std::path::Path;

    /// The tokenizer of bytes and the ChatML template of the tiny model.
    fn tiny() -> (Tokenizer, ChatTemplate) {
        let opened = formats::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny_llama")).unwrap();
        (opened.tokenizer, opened.template)
    }

    fn compose(turns: &[Turn]) -> RenderedPrompt {
        let (tokenizer, template) = tiny();
        let text = template.render(turns, true).unwrap();
        RenderedPrompt { turns: turns.to_vec(), ids: tokenizer.encode(&text).unwrap(), text }
    }

    fn said(text: &str, ids: &[u32]) -> Completion {
        let log_probs = vec![0.0; ids.len()];
        Completion {
            text: text.into(),
            ids: ids.into(),
            log_probs,
            version: CriticVersion::BASE,
            finish: FinishReason::Stop,
        }
    }

    const END: u32 = 258;

    /// The conversation after `written`, and its text.
    fn after(written: &Completion, shown: &str) -> (RenderedPrompt, Vec<u32>, String) {
        let (tokenizer, template) = tiny();
        let earlier = compose(&[Turn::new(ChatRole::User, "hi")]);
        let mut turns = earlier.turns.clone();
        turns.extend([Turn::new(ChatRole::Assistant, shown), Turn::new(ChatRole::User, "better")]);
        let text = template.render(&turns, true).unwrap();
        let ids = super::continue_after(&tokenizer, &earlier, written, &text).unwrap();
        (earlier, ids, text)
    }

    #[test]
    fn a_conversation_that_goes_on_begins_with_the_very_ids_that_were_sampled() {
        // 255 is no character: the text shows U+FFFD, whose own bytes are three other ids.
        for ids in [vec![104, 255, 33, END], vec![104, 255, 33]] {
            let (earlier, ids, _) = after(&said("h\u{fffd}!", &ids), "h\u{fffd}!");
            let expected = [&earlier.ids[..], &[104, 255, 33, END, 10]].concat();
            assert_eq!(ids[..expected.len()], expected);
            assert_eq!(tiny().0.decode(&ids[expected.len()..]).unwrap(), "user\nbetter\nassistant\n");
        }
    }

    #[test]
    fn a_text_that_is_shown_otherwise_than_it_was_written_is_encoded_anew() {
        // Cut at a stop string, the ids hold more than the text; trimmed by the template, they hold less.
        for (written, shown) in [(said("ab", &[97, 98, 99, END]), "ab"), (said(" ab", &[32, 97, 98, END]), "ab")] {
            let (_, ids, text) = after(&written, shown);
            assert_eq!(ids, tiny().0.encode(&text).unwrap());
        }
    }
}
