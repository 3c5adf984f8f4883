//! A client for remote servers with OpenAI's `/v1/chat/completions` API, such as vLLM's or llama.cpp's.
//!
//! Knows no role and no actor. At most `concurrency_max` requests are in flight at once, shared among the servers that
//! answer (`endpoints`); retryable errors are retried with growing pauses and within a budget; every attempt is counted by
//! its outcome. A field that a server refuses by name is not sent again. The key comes from the environment, is sent only to
//! the configured addresses, and is never printed.
//!
//! Invariant: an answer is complete and readable, or it is an error. Dropping the future cancels the request.

mod chat;
mod config;
mod endpoints;
mod error;
mod retry;
mod verifier;
mod wire;

pub use chat::{ChatRequest, ChatResponse, Usage};
pub use config::{RemoteConfig, RemotesConfig};
pub use error::Error;
pub use verifier::ask_verifier;

use crate::telemetry::metrics::{self, RemoteOutcome, RemoteTokens};
use crate::types::splitmix::{GOLDEN_GAMMA, mix64};
use chat::OPTIONAL;
use config::{is_loopback, is_open};
use endpoints::{Endpoints, lock};
use reqwest::StatusCode;
use reqwest::header::{AUTHORIZATION, HeaderValue, RETRY_AFTER};
use retry::RetryBudget;
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::Semaphore;

/// A longer response body is an error.
const REPLY_BYTES_MAX: usize = 4 << 20;

/// What stands where a server repeated the key.
const KEY_SHOWN: &str = "[the key]";
/// The longest part of a server's text that an error repeats, in characters.
const WHY_CHARS_MAX: usize = 200;

/// A client of one server.
pub struct Client {
    http: reqwest::Client,
    endpoints: Endpoints,
    key: Option<HeaderValue>,
    config: RemoteConfig,
    permits: Semaphore,
    budget: Mutex<RetryBudget>,
    /// Fields that a server has refused.
    refused: Mutex<BTreeSet<&'static str>>,
    /// The first failure in a row is logged as a warning; later ones are only counted.
    failing: AtomicBool,
}

impl Client {
    /// A client of the server that `config` describes, with the key from the environment.
    ///
    /// # Errors
    /// If the address is invalid or the key is missing.
    pub fn new(config: &RemoteConfig) -> Result<Self, Error> {
        let url = |address| config::url(address).ok_or_else(|| Error::Address(config::shown(address).to_owned()));
        let urls = config.addresses().map(url).collect::<Result<Vec<_>, _>>()?;
        let key = match config.api_key_env.as_str() {
            "" => None,
            name => Some(key(name).ok_or_else(|| Error::Key(name.to_owned()))?),
        };
        if key.is_some() && !config.key_over_http && urls.iter().any(is_open) {
            return Err(Error::KeyOverHttp);
        }
        let mut http = reqwest::Client::builder()
            .timeout(Duration::from_secs(config.timeout_seconds))
            // A redirect would send the key to another address.
            .redirect(reqwest::redirect::Policy::none());
        if urls.iter().all(is_loopback) {
            http = http.no_proxy();
        }
        Ok(Self {
            http: http.build().map_err(|error| Error::Unreachable(error.without_url().to_string()))?,
            endpoints: Endpoints::new(urls),
            key,
            permits: Semaphore::new(config.concurrency_max),
            budget: Mutex::new(RetryBudget::new(config.retry_share)),
            refused: Mutex::new(BTreeSet::new()),
            failing: AtomicBool::new(false),
            config: config.clone(),
        })
    }

    /// Sends `chat`, with retries where they may help.
    ///
    /// # Errors
    /// The error of the last attempt.
    pub async fn chat(&self, chat: &ChatRequest) -> Result<ChatResponse, Error> {
        lock(&self.budget).deposit();
        let mut tried = 0;
        loop {
            let error = match self.attempt(chat).await {
                Ok(answer) => return Ok(answer),
                // Without the field that it names, the same request may be answered.
                Err(error) if self.learns_from(&error) => continue,
                Err(error) => error,
            };
            if !error.is_retryable() || tried >= self.config.retries_max {
                return Err(error);
            }
            if !lock(&self.budget).withdraw() {
                metrics::REMOTE_RETRIES_DENIED.add(1);
                return Err(error);
            }
            metrics::REMOTE_RETRIES.add(1);
            let [first, longest] = [self.config.backoff_milliseconds, self.config.backoff_max_milliseconds];
            let unit = jitter(chat.seed, tried);
            let [first, longest] = [first, longest].map(Duration::from_millis);
            tokio::time::sleep(retry::pause(first, longest, tried, unit)).await;
            tried += 1;
        }
    }

    /// One attempt, once there is a permit and the server accepts requests.
    async fn attempt(&self, chat: &ChatRequest) -> Result<ChatResponse, Error> {
        // The semaphore is never closed.
        let _permit = self.permits.acquire().await.map_err(|error| Error::Unreachable(error.to_string()))?;
        let endpoint = self.endpoints.ready().await;
        let (_in_flight, started) = (metrics::REMOTE_IN_FLIGHT.guard(), Instant::now());
        let outcome = self.send(&endpoint, chat).await;
        endpoint.note(outcome.as_ref().err());
        metrics::REMOTE_SECONDS.record(started.elapsed().as_secs_f64());
        metrics::REMOTE_TRIES.add(outcome.as_ref().map_or_else(Error::outcome, |_| RemoteOutcome::Answered), 1);
        match &outcome {
            Ok(ChatResponse { usage, .. }) => {
                metrics::REMOTE_TOKENS.add(RemoteTokens::Prompt, usage.prompt_tokens);
                metrics::REMOTE_TOKENS.add(RemoteTokens::Completion, usage.completion_tokens);
                self.failing.store(false, Ordering::Relaxed);
            }
            Err(error) if !self.failing.swap(true, Ordering::Relaxed) => {
                tracing::warn!(model = self.config.model, %error, "remote request failed");
            }
            Err(error) => tracing::debug!(model = self.config.model, %error, "remote request failed"),
        }
        outcome
    }

    /// Whether `error` names a field that can be left out, which no request has from now on.
    fn learns_from(&self, error: &Error) -> bool {
        let Error::Refused { status: 400 | 422, why } = error else { return false };
        let sent = |field: &&&str| !self.config.omit.iter().any(|omitted| omitted == **field);
        let Some(field) = OPTIONAL.iter().filter(sent).find(|field| wire::is_refused(field, why)) else { return false };
        let learnt = lock(&self.refused).insert(field);
        if learnt {
            tracing::warn!(
                model = self.config.model,
                field,
                "the remote server refuses a field, which is left out from now on"
            );
        }
        learnt
    }

    async fn send(&self, endpoint: &endpoints::Lease<'_>, chat: &ChatRequest) -> Result<ChatResponse, Error> {
        let body = wire::body(&self.config, chat, &lock(&self.refused));
        let mut request = self.http.post(endpoint.url().clone()).json(&body);
        if let Some(key) = &self.key {
            request = request.header(AUTHORIZATION, key.clone());
        }
        let mut response = request.send().await.map_err(|error| self.transport_error(error))?;
        let status = response.status();
        if let Some(pause) = response.headers().get(RETRY_AFTER).filter(|_| !status.is_success()) {
            let pause = pause.to_str().ok().and_then(|header| retry::retry_after(header, SystemTime::now()));
            // A server that wants more is asked again, and may say so again.
            let longest = Duration::from_secs(self.config.timeout_seconds);
            if let Some(until) = pause.and_then(|pause| Instant::now().checked_add(pause.min(longest))) {
                endpoint.wait_until(until);
            }
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.transport_error(error))? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > REPLY_BYTES_MAX {
                return Err(Error::Unreadable(format!("expected at most {REPLY_BYTES_MAX} bytes, got more")));
            }
        }
        let bytes = self.redacted(bytes);
        match status {
            // JSON's escapes hide the key in the bytes, and show it in what they mean.
            StatusCode::OK | StatusCode::CREATED => match wire::read(&bytes, chat) {
                Ok(response) => Ok(self.without_key(response)),
                Err(why) => Err(Error::Unreadable(self.text_without_key(&why).chars().take(WHY_CHARS_MAX).collect())),
            },
            StatusCode::TOO_MANY_REQUESTS => Err(Error::Busy),
            StatusCode::REQUEST_TIMEOUT => Err(Error::Timeout { seconds: self.config.timeout_seconds }),
            status if status.is_server_error() => Err(Error::ServerError(status.as_u16())),
            status => {
                let why = String::from_utf8_lossy(&bytes).chars().take(WHY_CHARS_MAX).collect();
                Err(Error::Refused { status: status.as_u16(), why })
            }
        }
    }

    fn without_key(&self, mut response: ChatResponse) -> ChatResponse {
        response.text = self.text_without_key(&response.text);
        response.first_tokens.iter_mut().for_each(|(token, _)| *token = self.text_without_key(token));
        response
    }

    /// `text` without the key, as it is and as a quoted string shows it.
    fn text_without_key(&self, text: &str) -> String {
        let Some(key) = self.key_text() else { return text.to_owned() };
        text.replace(key, KEY_SHOWN).replace(&key.escape_debug().to_string(), KEY_SHOWN)
    }

    fn key_text(&self) -> Option<&str> {
        self.key.as_ref().and_then(|key| key.to_str().ok()?.strip_prefix("Bearer "))
    }

    /// The server's answer without the key, which some servers repeat: it is to stand in no error and in no text.
    fn redacted(&self, bytes: Vec<u8>) -> Vec<u8> {
        match self.key_text() {
            Some(key) if bytes.windows(key.len()).any(|part| part == key.as_bytes()) => {
                String::from_utf8_lossy(&bytes).replace(key, KEY_SHOWN).into_bytes()
            }
            _ => bytes,
        }
    }

    /// A failed connection as an error.
    fn transport_error(&self, error: reqwest::Error) -> Error {
        match error.is_timeout() {
            true => Error::Timeout { seconds: self.config.timeout_seconds },
            false => Error::Unreachable(causes(&error.without_url())),
        }
    }
}

/// The answer in `bytes`, the body of a response to `chat`.
///
/// # Errors
/// [`Error::Unreadable`], if it is no whole answer, or lacks log-probabilities that were requested.
pub fn parse_response(bytes: &[u8], chat: &ChatRequest) -> Result<ChatResponse, Error> {
    wire::read(bytes, chat).map_err(Error::Unreadable)
}

/// An error and its causes.
fn causes(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |error| error.source())
        .fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// The key in the environment variable `name`, as a header value; marked as sensitive so that it is not printed.
fn key(name: &str) -> Option<HeaderValue> {
    let key = std::env::var(name).ok().filter(|key| !key.trim().is_empty())?;
    let mut value = HeaderValue::from_str(&format!("Bearer {}", key.trim())).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// A number in `[0, 1)`, a function of the request's seed and of the number of attempts.
fn jitter(seed: u64, tried: u32) -> f64 {
    let bits = mix64(seed.wrapping_add(u64::from(tried).wrapping_mul(GOLDEN_GAMMA)));
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
