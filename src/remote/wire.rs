//! Request and response bodies: the part of OpenAI's `/v1/chat/completions` that all such servers support.
//!
//! Fields at their neutral value are not sent, because strict servers refuse fields that they do not know.

use super::chat::{ChatRequest, ChatResponse, Usage};
use crate::types::log_prob::is_log_prob;
use crate::types::{FinishReason, Turn};
use serde::{Deserialize, Serialize};

/// Number of first tokens with log-probabilities to request: the most that servers allow.
const TOP_LOGPROBS: u32 = 20;

#[derive(Serialize)]
pub(super) struct RequestBody<'a> {
    model: &'a str,
    messages: &'a [Turn],
    max_tokens: usize,
    temperature: f32,
    seed: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_k: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    min_p: Option<f32>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    stop: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_logprobs: Option<u32>,
}

impl<'a> RequestBody<'a> {
    pub(super) fn new(model: &'a str, chat: &'a ChatRequest) -> Self {
        Self {
            model,
            messages: &chat.turns,
            max_tokens: chat.max_tokens,
            temperature: chat.temperature,
            // Some servers store seeds as signed 32-bit integers.
            seed: (chat.seed >> 33) as u32,
            top_p: (chat.top_p < 1.0).then_some(chat.top_p),
            top_k: (chat.top_k > 0).then_some(chat.top_k),
            min_p: (chat.min_p > 0.0).then_some(chat.min_p),
            stop: &chat.stop,
            logprobs: chat.wants_log_probs.then_some(true),
            top_logprobs: chat.wants_log_probs.then_some(TOP_LOGPROBS),
        }
    }
}

#[derive(Deserialize)]
struct ResponseBody {
    choices: Vec<Choice>,
    usage: Option<Tokens>,
}

#[derive(Deserialize)]
struct Choice {
    message: Message,
    finish_reason: Option<String>,
    logprobs: Option<LogProbs>,
}

#[derive(Deserialize)]
struct Message {
    /// Absent if there is no text, as after a refusal.
    content: Option<String>,
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
    logprob: f64,
}

#[derive(Deserialize)]
struct Tokens {
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
}

/// The most tokens that a usage may report: more would be a mistake, and would spoil the sums of a whole run.
const USAGE_TOKENS_MAX: u64 = 1 << 32;

/// Parses the response to `chat`, or returns what is wrong with it.
pub(super) fn read(bytes: &[u8], chat: &ChatRequest) -> Result<ChatResponse, String> {
    let reply: ResponseBody = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let Some(choice) = reply.choices.into_iter().next() else { return Err("no choice".to_owned()) };
    let first_tokens = choice
        .logprobs
        .and_then(|logprobs| logprobs.content?.into_iter().next())
        .map(|position| position.top_logprobs.into_iter().map(|token| (token.token, token.logprob)).collect());
    let first_tokens: Option<Vec<(String, f64)>> = first_tokens;
    // A logarithm far below is written as -9999 or less by some servers.
    let strange = |(_, log_prob): &&(String, f64)| !is_log_prob(*log_prob);
    if let Some((_, log_prob)) = first_tokens.iter().flatten().find(strange) {
        return Err(format!("expected log-probabilities of at most 0, got {log_prob:e}"));
    }
    if chat.wants_log_probs && first_tokens.is_none() {
        return Err("no log-probabilities, which were asked for".to_owned());
    }
    let finish = match choice.finish_reason.as_deref() {
        Some("length") => FinishReason::Length,
        // A server that died half-way may still close its JSON, so a text without a finish reason is not complete.
        None => return Err("no finish_reason".to_owned()),
        Some(_) => FinishReason::Stop,
    };
    let text = choice.message.content.ok_or("no content")?;
    let usage = reply.usage.map_or(Usage::default(), |tokens| Usage {
        prompt_tokens: tokens.prompt_tokens,
        completion_tokens: tokens.completion_tokens,
    });
    if let Some(tokens) = [usage.prompt_tokens, usage.completion_tokens].into_iter().find(|&n| n > USAGE_TOKENS_MAX) {
        return Err(format!("usage: expected at most {USAGE_TOKENS_MAX} tokens, got {tokens}"));
    }
    Ok(ChatResponse { text, finish, usage, first_tokens: first_tokens.unwrap_or_default() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::types::ChatRole;
    use serde_json::json;

    fn chat() -> ChatRequest {
        ChatRequest {
            turns: vec![Turn::new(ChatRole::User, "hi")],
            max_tokens: 8,
            seed: u64::MAX,
            ..ChatRequest::default()
        }
    }

    fn answer(reply: &serde_json::Value, chat: &ChatRequest) -> Result<ChatResponse, String> {
        read(reply.to_string().as_bytes(), chat)
    }

    #[test]
    fn what_is_neutral_is_not_sent() {
        let chat = chat();
        let sent = serde_json::to_value(RequestBody::new("m", &chat)).unwrap();
        let messages = json!([{"role": "user", "content": "hi"}]);
        let expected =
            json!({"model": "m", "messages": messages, "max_tokens": 8, "temperature": 0.0, "seed": 0x7fff_ffff});
        assert_eq!(sent, expected);
        let warm =
            ChatRequest { top_p: 0.5, top_k: 3, min_p: 0.25, stop: vec!["x".into()], wants_log_probs: true, ..chat };
        let sent = serde_json::to_value(RequestBody::new("m", &warm)).unwrap();
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
    fn what_is_no_answer_is_refused() {
        let end = "stop";
        for (reply, why) in [
            (json!({"error": {"message": "overloaded"}}), "choices"),
            (json!({"choices": []}), "no choice"),
            (json!({"choices": [{"finish_reason": end, "message": {"content": null}}]}), "no content"),
            (json!({"choices": [{"finish_reason": null, "message": {"content": "A"}}]}), "no finish_reason"),
            (json!({"choices": [{"finish_reason": end, "message": {"content": 3}}]}), "string"),
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
            assert!(answer(&reply, &chat()).unwrap_err().contains(why), "{reply}");
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
