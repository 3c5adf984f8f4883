//! Request and response bodies: the part of OpenAI's `/v1/chat/completions` that all such servers support.
//!
//! Fields at their neutral value are not sent, because strict servers refuse fields that they do not know.

use super::chat::{ChatRequest, ChatResponse, Usage};
use super::config::RemoteConfig;
use crate::types::FinishReason;
use crate::types::log_prob::is_log_prob;
use regex::{Captures, Regex};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::sync::LazyLock;

/// Number of first tokens with log-probabilities to request: the most that servers allow.
const TOP_LOGPROBS: u32 = 20;

/// The body of a request for `chat`, without the fields that `config` omits or the server has `refused`.
pub(super) fn body(config: &RemoteConfig, chat: &ChatRequest, refused: &BTreeSet<&'static str>) -> Map<String, Value> {
    let mut body = Map::new();
    let mut put = |field: &str, value: Value| {
        let name = match config.rename.get(field) {
            Some(name) => name.as_str(),
            None if !refused.contains(field) => field,
            // The newer name, where the older one is refused.
            None if field == "max_tokens" => "max_completion_tokens",
            None => return,
        };
        if !config.omit.iter().any(|omitted| omitted == field) {
            body.insert(name.to_owned(), value);
        }
    };
    put("model", json!(config.model));
    put("messages", json!(chat.turns));
    put("max_tokens", json!(chat.max_tokens));
    put("temperature", json!(chat.temperature));
    // Some servers store seeds as signed 32-bit integers.
    put("seed", json!((chat.seed >> 33) as u32));
    let mut put_if = |wanted: bool, field: &str, value: Value| {
        if wanted {
            put(field, value);
        }
    };
    put_if(chat.top_p < 1.0, "top_p", json!(chat.top_p));
    put_if(chat.top_k > 0, "top_k", json!(chat.top_k));
    put_if(chat.min_p > 0.0, "min_p", json!(chat.min_p));
    put_if(!chat.stop.is_empty(), "stop", json!(chat.stop));
    put_if(chat.wants_log_probs, "logprobs", json!(true));
    put_if(chat.wants_log_probs, "top_logprobs", json!(TOP_LOGPROBS));
    body.extend(config.extra_body.clone());
    body
}

/// Whether `why`, what a server says of a request that it refused, names `field` as what it does not take.
pub(super) fn is_refused(field: &str, why: &str) -> bool {
    const REASONS: [&str; 10] = [
        "unsupported",
        "not support",
        "unrecognized",
        "unknown",
        "not allowed",
        "not permitted",
        "only the default",
        "extra inputs",
        "unexpected",
        "refused",
    ];
    let lower = why.to_lowercase();
    let named = lower.match_indices(field).any(|(at, _)| {
        let inside = |c: char| c.is_alphanumeric() || c == '_';
        let (before, behind) = (&lower[..at], &lower[at + field.len()..]);
        !before.ends_with(inside) && !behind.starts_with(inside)
    });
    named && REASONS.iter().any(|reason| lower.contains(reason))
}

#[derive(Deserialize)]
struct ResponseBody {
    choices: Vec<Choice>,
    usage: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    message: Message,
    finish_reason: Option<String>,
    #[serde(default)]
    logprobs: Value,
    #[serde(default)]
    error: Value,
}

#[derive(Deserialize)]
struct Message {
    /// Absent if there is no text, as after a refusal.
    content: Option<Content>,
}

/// A text, or parts of which some are texts and others thoughts or references.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a string or a list of parts")]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
struct Part {
    #[serde(default, rename = "type")]
    kind: String,
    text: Option<String>,
}

impl Content {
    fn text(self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text),
            Self::Parts(parts) => {
                let is_text = |part: &Part| matches!(part.kind.as_str(), "" | "text" | "output_text");
                let texts: Vec<String> = parts.into_iter().filter(is_text).filter_map(|part| part.text).collect();
                (!texts.is_empty()).then(|| texts.concat())
            }
        }
    }
}

#[derive(Deserialize)]
struct LogProbs {
    content: Option<Vec<Position>>,
}

#[derive(Deserialize)]
struct Position {
    top_logprobs: Vec<Token>,
}

#[derive(Deserialize)]
struct Token {
    token: String,
    logprob: Option<f64>,
}

/// The most tokens that a usage may report: more would be a mistake, and would spoil the sums of a whole run.
const USAGE_TOKENS_MAX: u64 = 1 << 32;

/// Parses the response to `chat`, or returns what is wrong with it.
pub(super) fn read(bytes: &[u8], chat: &ChatRequest) -> Result<ChatResponse, String> {
    let text = String::from_utf8_lossy(bytes);
    let text = without_lone_surrogates(text.trim_start_matches('\u{feff}'));
    let whole = match streamed(&text) {
        Some(streamed) => streamed?,
        None => text,
    };
    let reply: ResponseBody = serde_json::from_str(&whole).map_err(|error| error.to_string())?;
    let Some(choice) = reply.choices.into_iter().next() else { return Err("no choice".to_owned()) };
    if !choice.error.is_null() {
        return Err(format!("an error in place of a text: {}", choice.error));
    }
    let finish = match choice.finish_reason.as_deref() {
        Some("length") => FinishReason::Length,
        Some(reason @ ("error" | "content_filter")) => return Err(format!("it ended with {reason:?}")),
        // A server that died half-way may still close its JSON, so a text without a finish reason is not complete.
        None => return Err("no finish_reason".to_owned()),
        Some(_) => FinishReason::Stop,
    };
    let first_tokens = if chat.wants_log_probs { first_tokens(choice.logprobs)? } else { Vec::new() };
    let text = choice.message.content.and_then(Content::text).ok_or("no content")?;
    let usage = reply.usage.map_or(Ok(Usage::default()), |usage| read_usage(&usage))?;
    Ok(ChatResponse { text, finish, usage, first_tokens })
}

/// The likeliest first tokens with their log-probabilities. One that the server does not know is left out.
fn first_tokens(logprobs: Value) -> Result<Vec<(String, f64)>, String> {
    let logprobs: Option<LogProbs> = serde_json::from_value(logprobs).map_err(|error| error.to_string())?;
    let position = logprobs.and_then(|logprobs| logprobs.content?.into_iter().next());
    let position = position.ok_or("no log-probabilities, which were asked for")?;
    let known = position.top_logprobs.into_iter().filter_map(|token| Some((token.token, token.logprob?)));
    let first_tokens: Vec<(String, f64)> = known.collect();
    // A logarithm far below is written as -9999 or less by some servers.
    match first_tokens.iter().find(|(_, log_prob)| !is_log_prob(*log_prob)) {
        Some((_, log_prob)) => Err(format!("expected log-probabilities of at most 0, got {log_prob:e}")),
        None => Ok(first_tokens),
    }
}

/// Token counts, which some servers write as decimals or leave out.
fn read_usage(usage: &Value) -> Result<Usage, String> {
    let tokens = |field: &str| match usage.get(field).and_then(Value::as_f64).unwrap_or_default() {
        count if (0.0..=USAGE_TOKENS_MAX as f64).contains(&count) => Ok(count as u64),
        count => Err(format!("usage: expected at most {USAGE_TOKENS_MAX} tokens, got {count}")),
    };
    Ok(Usage { prompt_tokens: tokens("prompt_tokens")?, completion_tokens: tokens("completion_tokens")? })
}

/// `json` with halves of surrogate pairs, which no text can hold, as replacement characters.
fn without_lone_surrogates(json: &str) -> String {
    static PAIR: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"(?i)\\(?:\\|u(d[89ab][0-9a-f]{2})\\u(d[c-f][0-9a-f]{2})|u(d[89a-f][0-9a-f]{2}))")
            .expect("a constant: a test compiles it")
    });
    if !json.contains("\\ud") && !json.contains("\\uD") {
        return json.to_owned();
    }
    let whole = |found: &Captures<'_>| if found.get(3).is_some() { "\\ufffd".to_owned() } else { found[0].to_owned() };
    PAIR.replace_all(json, whole).into_owned()
}

/// The answer of a server that streams though it was not asked to, as one body; `None` if `text` is no event stream.
fn streamed(text: &str) -> Option<Result<String, String>> {
    if !text.lines().find(|line| !line.trim().is_empty() && !line.starts_with(':'))?.starts_with("data:") {
        return None;
    }
    let (mut content, mut finish, mut usage, mut logprobs) = (String::new(), Value::Null, Value::Null, Value::Null);
    for line in text.lines() {
        let Some(data) = line.strip_prefix("data:").map(str::trim).filter(|data| *data != "[DONE]") else { continue };
        let chunk: Value = match serde_json::from_str(data) {
            Ok(chunk) => chunk,
            Err(error) => return Some(Err(format!("in an event: {error}"))),
        };
        if let Some(error) = chunk.get("error").filter(|error| !error.is_null()) {
            return Some(Err(format!("an error in place of a text: {error}")));
        }
        let choice = &chunk["choices"][0];
        content += choice["delta"]["content"].as_str().or(choice["message"]["content"].as_str()).unwrap_or_default();
        let keep = |kept: &mut Value, new: &Value| {
            if !new.is_null() {
                *kept = new.clone();
            }
        };
        keep(&mut finish, &choice["finish_reason"]);
        keep(&mut usage, &chunk["usage"]);
        if logprobs.is_null() {
            keep(&mut logprobs, &choice["logprobs"]);
        }
    }
    let choice = json!({"message": {"content": content}, "finish_reason": finish, "logprobs": logprobs});
    Some(Ok(json!({"choices": [choice], "usage": usage}).to_string()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::types::{ChatRole, Turn};

    fn chat() -> ChatRequest {
        ChatRequest {
            turns: vec![Turn::new(ChatRole::User, "hi")],
            max_tokens: 8,
            seed: u64::MAX,
            ..ChatRequest::default()
        }
    }

    fn config(more: &str) -> RemoteConfig {
        let whole: toml::Table = toml::from_str(include_str!("../../configs/quickstart.toml")).unwrap();
        let mut table = whole["remote"]["judge"].as_table().unwrap().clone();
        let given = format!("base_url = \"http://127.0.0.1:1/v1\"\nmodel = \"m\"\n{more}");
        table.extend(toml::from_str::<toml::Table>(&given).unwrap());
        table.try_into().unwrap()
    }

    #[test]
    fn fields_are_left_out_renamed_and_added() {
        let config = config(
            "omit = [\"temperature\"]\nrename = {max_tokens = \"max_completion_tokens\"}\nextra_body = {reasoning_effort = \"low\", seed = 5}",
        );
        assert_eq!(config.complaints("remote.judge", true), Vec::<String>::new());
        let sent = Value::Object(body(&config, &chat(), &BTreeSet::new()));
        let messages = json!([{"role": "user", "content": "hi"}]);
        let expected = json!({"model": "m", "messages": messages, "max_completion_tokens": 8, "seed": 5, "reasoning_effort": "low"});
        assert_eq!(sent, expected);
        let refused = BTreeSet::from(["seed", "max_tokens"]);
        let sent = Value::Object(body(&self::config(""), &chat(), &refused));
        assert_eq!(sent, json!({"model": "m", "messages": messages, "max_completion_tokens": 8, "temperature": 0.0}));
        for more in [
            "omit = [\"messages\"]",
            "rename = {model = \"x\"}",
            "extra_body = {stream = true}",
            "more_base_urls = [\"x\"]",
        ] {
            assert_eq!(self::config(more).complaints("remote.judge", true).len(), 1, "{more}");
        }
    }

    #[test]
    fn what_a_server_does_not_take_is_read_from_its_refusal() {
        for (field, why) in [
            (
                "temperature",
                r#"{"error": {"message": "Unsupported value: 'temperature' does not support 0 with this model."}}"#,
            ),
            ("max_tokens", "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."),
            ("seed", r#"{"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]}"#),
        ] {
            assert!(is_refused(field, why), "{field}");
            assert!(!is_refused("top_p", why), "{field}");
        }
        assert!(!is_refused("max_tokens", "unsupported: max_tokens_per_minute"));
        assert!(!is_refused("max_tokens", "max_tokens is too large: 9000"));
    }

    fn answer(reply: &serde_json::Value, chat: &ChatRequest) -> Result<ChatResponse, String> {
        read(reply.to_string().as_bytes(), chat)
    }

    #[test]
    fn what_is_neutral_is_not_sent() {
        let chat = chat();
        let config = config("");
        let none = BTreeSet::new();
        let sent = Value::Object(body(&config, &chat, &none));
        let messages = json!([{"role": "user", "content": "hi"}]);
        let expected =
            json!({"model": "m", "messages": messages, "max_tokens": 8, "temperature": 0.0, "seed": 0x7fff_ffff});
        assert_eq!(sent, expected);
        let warm =
            ChatRequest { top_p: 0.5, top_k: 3, min_p: 0.25, stop: vec!["x".into()], wants_log_probs: true, ..chat };
        let sent = Value::Object(body(&config, &warm, &none));
        for (key, value) in [
            ("top_p", json!(0.5)),
            ("top_k", json!(3)),
            ("min_p", json!(0.25)),
            ("stop", json!(["x"])),
            ("logprobs", json!(true)),
            ("top_logprobs", json!(20)),
        ] {
            assert_eq!(sent[key], value, "{key}");
        }
    }

    #[test]
    fn an_answer_is_read_with_its_usage_its_end_and_its_first_tokens() {
        let top = json!([{"token": "A", "logprob": -0.5, "bytes": [65]}, {"token": " B", "logprob": -1.5}]);
        let choice = json!({
            "index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "A."},
            "logprobs": {"content": [{"token": "A", "logprob": -0.5, "top_logprobs": top}]},
        });
        let usage = json!({"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9});
        let reply = json!({"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage});
        let got = answer(&reply, &ChatRequest { wants_log_probs: true, ..chat() }).unwrap();
        assert_eq!((got.text.as_str(), got.finish), ("A.", FinishReason::Stop));
        assert_eq!(got.usage, Usage { prompt_tokens: 7, completion_tokens: 2 });
        assert_eq!(got.first_tokens, [("A".to_owned(), -0.5), (" B".to_owned(), -1.5)]);
        let cut = json!({"choices": [{"finish_reason": "length", "message": {"content": "long"}}]});
        let got = answer(&cut, &chat()).unwrap();
        assert_eq!((got.finish, got.usage), (FinishReason::Length, Usage::default()));
    }

    #[test]
    fn answers_of_other_shapes_are_read() {
        let stop = |content: Value| json!({"choices": [{"finish_reason": "stop", "message": {"content": content}}]});
        let parts =
            json!([{"type": "thinking", "thinking": []}, {"type": "text", "text": "A"}, {"type": "text", "text": "."}]);
        assert_eq!(answer(&stop(parts), &chat()).unwrap().text, "A.");
        let mut floats = stop(json!("A"));
        floats["usage"] = json!({"prompt_tokens": 7.0, "completion_tokens": null});
        assert_eq!(answer(&floats, &chat()).unwrap().usage, Usage { prompt_tokens: 7, completion_tokens: 0 });
        let text = stop(json!("A")).to_string();
        assert_eq!(read(format!("\u{feff}{text}").as_bytes(), &chat()).unwrap().text, "A");
        let half = text.replace("\"A\"", r#""A \ud83d \ud83d\ude00""#);
        assert_eq!(read(half.as_bytes(), &chat()).unwrap().text, "A \u{fffd} \u{1f600}");
        let events = [
            json!({"choices": [{"delta": {"role": "assistant", "content": ""}, "finish_reason": null}]}),
            json!({"choices": [{"delta": {"content": "A"}, "finish_reason": null}]}),
            json!({"choices": [{"delta": {"content": "."}, "finish_reason": "stop"}], "usage": {"completion_tokens": 2}}),
        ];
        let stream: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
        let got = read(format!(": a comment\n\n{stream}data: [DONE]\n").as_bytes(), &chat()).unwrap();
        assert_eq!((got.text.as_str(), got.finish, got.usage.completion_tokens), ("A.", FinishReason::Stop, 2));
        let cut = format!("data: {}\n\n", events[1]);
        assert!(read(cut.as_bytes(), &chat()).unwrap_err().contains("no finish_reason"));
        let error = json!({"error": {"message": "overloaded"}});
        assert!(read(format!("data: {error}\n").as_bytes(), &chat()).unwrap_err().contains("overloaded"));
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        let end = "stop";
        for (reply, why) in [
            (json!({"error": {"message": "overloaded"}}), "choices"),
            (json!({"choices": []}), "no choice"),
            (json!({"choices": [{"finish_reason": end, "message": {"content": null}}]}), "no content"),
            (json!({"choices": [{"finish_reason": null, "message": {"content": "A"}}]}), "no finish_reason"),
            (json!({"choices": [{"finish_reason": end, "message": {"content": 3}}]}), "string"),
            (json!({"choices": [{"finish_reason": "error", "message": {"content": "A"}}]}), "\"error\""),
            (json!({"choices": [{"finish_reason": end, "message": {"content": "A"}, "error": {"code": 502}}]}), "502"),
            (json!({"choices": [{"finish_reason": end, "message": {"content": []}}]}), "no content"),
            (json!("<html>"), "ResponseBody"),
        ] {
            let error = answer(&reply, &chat()).unwrap_err();
            assert!(error.contains(why), "{reply}: {error}");
        }
        let whole = json!({"choices": [{"finish_reason": end, "message": {"content": "A"}}]});
        for (key, strange, why) in [
            ("usage", json!({"prompt_tokens": u64::MAX}), "usage: expected at most 4294967296 tokens"),
            ("logprobs", json!(1e308), "expected log-probabilities of at most 0, got 1e308"),
        ] {
            let mut reply = whole.clone();
            match key {
                "usage" => reply[key] = strange,
                _ => {
                    let top = json!([{"token": "A", "logprob": strange}]);
                    reply["choices"][0][key] = json!({"content": [{"top_logprobs": top}]});
                }
            }
            let asked = ChatRequest { wants_log_probs: key == "logprobs", ..chat() };
            assert!(answer(&reply, &asked).unwrap_err().contains(why), "{reply}");
        }
        assert!(answer(&whole, &chat()).is_ok());
        assert!(
            answer(&whole, &ChatRequest { wants_log_probs: true, ..chat() })
                .unwrap_err()
                .contains("no log-probabilities")
        );
        let text = whole.to_string();
        assert!(read(&text.as_bytes()[..text.len() / 2], &chat()).is_err());
    }
}
