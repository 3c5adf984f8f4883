//! How to reach remote servers, and what is wrong with it.

use super::chat::OPTIONAL;
use reqwest::Url;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The servers that replace local models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemotesConfig {
    /// Judges, with `judge.kind = "remote"`.
    pub judge: RemoteConfig,
    /// Answers and refines, with `generator.kind = "remote"`.
    pub generator: RemoteConfig,
}

/// One server, with its time-outs and retries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoteConfig {
    /// The address before `/chat/completions`, such as `http://127.0.0.1:8000/v1`.
    pub base_url: String,
    /// Addresses of more servers with the same model: requests are shared among those that answer.
    pub more_base_urls: Vec<String>,
    /// The model's name there.
    pub model: String,
    /// The environment variable that holds the API key; empty for none.
    pub api_key_env: String,
    /// Whether the key may go to another machine over plain HTTP, where whoever is on the way can read it.
    pub key_over_http: bool,
    /// Maximum requests in flight.
    pub concurrency_max: usize,
    /// Time-out of one attempt, in seconds.
    pub timeout_seconds: u64,
    /// Retries of one request.
    pub retries_max: u32,
    /// Retry budget: retries per request, on average over all requests, beyond a small fixed reserve.
    pub retry_share: f64,
    /// Pause before the first retry; it doubles with each retry.
    pub backoff_milliseconds: u64,
    /// Longest pause, unless the server asks for more, up to the time-out.
    pub backoff_max_milliseconds: u64,
    /// Fields that the server refuses and that are not sent: `temperature`, `seed`, `max_tokens` and the like.
    pub omit: Vec<String>,
    /// Fields under another name there: `max_tokens = "max_completion_tokens"`.
    pub rename: BTreeMap<String, String>,
    /// Fields to send besides, or in place of others.
    pub extra_body: serde_json::Map<String, serde_json::Value>,
}

impl RemoteConfig {
    /// Complaints about its values, all at once; `section` is its config section. If it is not `used`, address and model
    /// may be empty.
    pub fn complaints(&self, section: &str, used: bool) -> Vec<String> {
        let mut complaints = Vec::new();
        let mut expect = |right: bool, key: &str, expected: &str, got: &dyn std::fmt::Debug| {
            if !right {
                complaints.push(format!("{section}.{key}: expected {expected}, got {got:?}"));
            }
        };
        let address = "an address such as \"http://127.0.0.1:8000/v1\", without user, query or fragment";
        let unused = !used && self.base_url.is_empty();
        let shown_url = shown(&self.base_url);
        expect(unused || url(&self.base_url).is_some(), "base_url", address, &shown_url);
        for more in &self.more_base_urls {
            expect(url(more).is_some(), "more_base_urls", address, &shown(more));
        }
        for field in self.omit.iter().chain(self.rename.keys()) {
            let known = OPTIONAL.contains(&field.as_str());
            expect(known, "omit and rename", &format!("one of {}", OPTIONAL.join(", ")), field);
        }
        for field in ["messages", "model", "stream", "n"] {
            expect(
                !self.extra_body.contains_key(field),
                "extra_body",
                "no field that the request itself needs",
                &field,
            );
        }
        expect(!used || !self.model.trim().is_empty(), "model", "the model's name on that server", &self.model);
        // Many keys are letters and digits, but not capitals alone.
        let is_name = |b: u8| b == b'_' || b.is_ascii_uppercase() || b.is_ascii_digit();
        let is_name = self.api_key_env.bytes().all(is_name);
        // If the key itself was put here by mistake, it must not be logged.
        let expected = "the name of an environment variable in capitals, not a key";
        expect(is_name && self.api_key_env.len() <= 64, "api_key_env", expected, &"something else");
        let expected = "https, as api_key_env is set; key_over_http = true allows it";
        for address in self.addresses() {
            let open =
                !self.api_key_env.is_empty() && !self.key_over_http && url(address).is_some_and(|url| is_open(&url));
            expect(!open, "base_url", expected, &shown(address));
        }
        expect(self.concurrency_max >= 1, "concurrency_max", "at least 1", &self.concurrency_max);
        expect(self.timeout_seconds >= 1, "timeout_seconds", "at least 1", &self.timeout_seconds);
        let share = (0.0..=10.0).contains(&self.retry_share);
        expect(share, "retry_share", "a number from 0 to 10", &self.retry_share);
        expect(self.backoff_milliseconds >= 1, "backoff_milliseconds", "at least 1", &self.backoff_milliseconds);
        let expected = format!("at least backoff_milliseconds ({})", self.backoff_milliseconds);
        let longest = self.backoff_max_milliseconds;
        expect(longest >= self.backoff_milliseconds, "backoff_max_milliseconds", &expected, &longest);
        complaints
    }

    /// The addresses of all servers.
    pub(super) fn addresses(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.base_url.as_str()).chain(self.more_base_urls.iter().map(String::as_str))
    }
}

/// The URL of requests to the server at `base_url`.
pub(super) fn url(base_url: &str) -> Option<Url> {
    let mut url = Url::parse(base_url).ok()?;
    url.set_path(&format!("{}/chat/completions", url.path().trim_end_matches('/')));
    let plain = url.username().is_empty() && url.password().is_none() && !base_url.contains(['?', '#']);
    (matches!(url.scheme(), "http" | "https") && url.has_host() && plain).then_some(url)
}

/// An address as messages show it: its user, query and fragment may be secrets.
pub(super) fn shown(base_url: &str) -> &str {
    if base_url.contains(['@', '?', '#']) { "one with a user, query or fragment" } else { base_url }
}

/// Whether what is sent to `url` can be read on the way.
pub(super) fn is_open(url: &Url) -> bool {
    url.scheme() == "http" && !is_loopback(url)
}

pub(super) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}
